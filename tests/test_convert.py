"""Arrays of 16 bits to float32 and back: exact, and rounded to nearest, ties to even."""

import ml_dtypes
import numpy as np
import pytest

from fastsoftmax import _backend, _fallback, _front

KERNELS = [_backend.get(name) for name in _backend.available()]
HALVES = [np.float16, ml_dtypes.bfloat16]


def every_number(dtype) -> np.ndarray:
    return np.arange(2**16, dtype=np.uint16).view(dtype)


def between(dtype, wide) -> np.ndarray:
    """All numbers of the dtype, the ones halfway to the next, and their neighbours."""
    with np.errstate(all="ignore"):
        exact = every_number(dtype).astype(wide)
        middle = exact[:-1] / 2 + exact[1:] / 2
    found = np.concatenate([exact, middle])
    with np.errstate(all="ignore"):
        return np.concatenate([found, np.nextafter(found, wide(-np.inf)), -found])


def assert_same_words(got: np.ndarray, wanted: np.ndarray) -> None:
    """Zeros have their signs; a NaN is any."""
    is_nan = np.isnan(wanted.astype(np.float32))
    np.testing.assert_array_equal(np.isnan(got.astype(np.float32)), is_nan)
    np.testing.assert_array_equal(got.view(np.uint16)[~is_nan], wanted.view(np.uint16)[~is_nan])


@pytest.mark.parametrize("wide", [np.float32, np.float64])
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("kernels", KERNELS, ids=lambda kernels: kernels.name)
def test_every_number_and_what_lies_between(kernels, dtype, wide):
    values = between(dtype, wide)
    with np.errstate(all="ignore"):
        wanted, wanted_back = values.astype(dtype), every_number(dtype).astype(np.float32)
    got = np.zeros_like(wanted)
    if kernels.convert(values, got):
        assert_same_words(got, wanted)
    back = np.zeros(2**16, np.float32)
    if kernels.convert(every_number(dtype), back):
        np.testing.assert_array_equal(back, wanted_back)


def test_who_converts_what():
    """What is left to numpy.copyto is what that does well."""
    for kernels in KERNELS:
        for dtype in HALVES:
            narrow, wide = np.ones(5, dtype), np.ones(5, np.float32)
            compiled = np.dtype(dtype).name in kernels.dtypes
            of_numpy = isinstance(kernels, _fallback.Kernels) and dtype is np.float16
            assert kernels.convert(wide, narrow) == (compiled or of_numpy)
            assert kernels.convert(narrow, wide) == compiled
            assert not kernels.convert(np.ones(5, np.int32), np.ones(5))


@pytest.mark.parametrize("dtype", HALVES)
def test_any_layout(dtype):
    values = np.random.default_rng(0).normal(0.0, 1e-4, (6, 10, 4)).astype(np.float32)
    for source in (values, values.T, values[::2, ::-1], values[1:1], values.transpose(1, 0, 2)):
        wanted = source.astype(dtype)
        for target in (np.zeros_like(wanted), np.zeros(source.shape, dtype, order="F")):
            _front.convert(source, target)
            assert_same_words(np.ascontiguousarray(target), np.ascontiguousarray(wanted))
            back = np.zeros_like(source)
            _front.convert(target, back)
            np.testing.assert_array_equal(back, wanted.astype(np.float32))


@pytest.mark.parametrize("dtype", HALVES)
def test_results_of_another_dtype_are_rounded_once(api, dtype):
    x = np.random.default_rng(0).normal(0.0, 6.0, (20, 37)).astype(np.float32)
    for function in (api.softmax, api.log_softmax, api.logsumexp):
        wanted = function(x, -1).astype(dtype)
        got = function(x, -1, dtype=dtype)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, wanted)
        narrow = x.astype(dtype)
        np.testing.assert_array_equal(
            function(narrow, -1, dtype=np.float32), function(narrow.astype(np.float32), -1)
        )


@pytest.mark.parametrize("axis", [0, 1, 2, (0, 2), None])
@pytest.mark.parametrize("order", ["C", "F"])
def test_large_arrays_are_converted_part_by_part(api, axis, order, monkeypatch):
    """Options that are given for each slice, or element, go with their parts."""
    rng = np.random.default_rng(0)
    x = np.asarray(rng.integers(-9, 9, (7, 6, 10)), order=order)
    where = rng.random(x.shape) < 0.8
    temperature = rng.uniform(0.5, 2.0, x.sum(axis, keepdims=True).shape)
    options = {"where": where, "temperature": temperature}
    wanted = [
        api.softmax(x, axis, dtype="float16", **options),
        api.log_softmax(x, axis, **options),
        api.logsumexp(x, axis, where=where),
    ]
    monkeypatch.setattr(_front, "AT_A_TIME", 100)
    got = [
        api.softmax(x, axis, dtype="float16", **options),
        api.log_softmax(x, axis, **options),
        api.logsumexp(x, axis, where=where),
    ]
    for part, all_at_once in zip(got, wanted, strict=True):
        np.testing.assert_allclose(part, all_at_once, rtol=1e-3 if part is got[0] else 1e-15)
    overlapping = np.zeros(x.size + 8, np.float32)
    x, out = (overlapping[i : i + x.size].reshape(x.shape) for i in (0, 8))
    x[...] = rng.normal(size=x.shape)
    expected = api.softmax(x.copy(), axis)
    np.testing.assert_allclose(api.softmax(x, axis, out=out), expected, rtol=1e-6)
