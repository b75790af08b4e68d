"""out=: any writeable place of the right shape and dtype, wherever it lies, the input included."""

import tracemalloc

import numpy as np
import pytest

import oracle
from layouts import LAYOUTS
from oracle import assert_accurate

DTYPES = ("float32", "float64")
MAPS = ("softmax", "log_softmax")
WRITEABLE = [name for name in LAYOUTS if name not in ("read-only", "broadcast")]


def logits(shape, dtype):
    return np.random.default_rng(0).normal(0.0, 5.0, shape).astype(dtype)


def exact_along(x, axis):
    """The exact results along an axis, in the axes of x."""
    exact = oracle.exact(np.moveaxis(x, axis, -1))
    softmax, log_softmax = (np.moveaxis(a, -1, axis) for a in exact[:2])
    return oracle.Exact(softmax, log_softmax, exact.logsumexp)


def assert_logsumexp_accurate(got, exact, x, axis):
    unit = oracle.logsumexp_unit(np.moveaxis(x, axis, -1), exact.logsumexp)
    assert_accurate(got, exact.logsumexp, unit)


@pytest.mark.parametrize("of_out", WRITEABLE)
@pytest.mark.parametrize("of_x", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_any_layout_into_any_other(api, dtype, of_x, of_out):
    x = LAYOUTS[of_x](logits((3, 4, 5), dtype))
    native = x.astype(dtype)
    for axis in (0, 1, 2):
        exact = exact_along(native, axis)
        for function in MAPS:
            out = LAYOUTS[of_out](np.zeros(x.shape, dtype))
            assert getattr(api, function)(x, axis, out=out) is out
            assert_accurate(out.astype(dtype), getattr(exact, function))
        out = LAYOUTS[of_out](np.zeros(exact.logsumexp.shape, dtype))
        assert api.logsumexp(x, axis, out=out) is out
        assert_logsumexp_accurate(out.astype(dtype), exact, native, axis)
    np.testing.assert_array_equal(x, native)


def _run(a, start):
    return a.reshape(-1)[start : start + 30].reshape(5, 6)


OVERLAPS = {
    "itself": lambda a: (a, a),
    "a view of itself": lambda a: (a, a[:]),
    "one row further": lambda a: (a[:-1], a[1:]),
    "one row back": lambda a: (a[1:], a[:-1]),
    "one column further": lambda a: (a[:, :-1], a[:, 1:]),
    "one column back": lambda a: (a[:, 1:], a[:, :-1]),
    "one element further": lambda a: (_run(a, 0), _run(a, 1)),
    "one element back": lambda a: (_run(a, 1), _run(a, 0)),
    "upside down": lambda a: (a, a[::-1]),
    "right to left": lambda a: (a, a[:, ::-1]),
    "both backwards": lambda a: (a[::-1, ::-1], a[::-1, ::-1]),
    "transposed": lambda a: (a, a.T),
    "both transposed": lambda a: (a.T, a.T),
    "interleaved columns": lambda a: (a[:, ::2], a[:, 1::2]),
    "interleaved rows": lambda a: (a[::2], a[1::2]),
    "one row for all": lambda a: (np.broadcast_to(a[2], a.shape), a),
    "one column for all": lambda a: (np.broadcast_to(a[:, 2:3], a.shape), a),
    "the other byte order": lambda a: (a, a.view(a.dtype.newbyteorder())),
    "from the other byte order": lambda a: (a.byteswap().view(a.dtype.newbyteorder()), a),
}


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_out_may_overlap_the_input_in_any_way(api, dtype, overlap):
    for axis in (0, 1):
        for function in MAPS:
            x, out = OVERLAPS[overlap](logits((6, 6), dtype))
            exact = exact_along(x.astype(dtype), axis)
            assert getattr(api, function)(x, axis, out=out) is out
            assert_accurate(out.astype(dtype), getattr(exact, function))


@pytest.mark.parametrize("kind", ["int64", "float16", "uint8"])
def test_out_may_be_the_memory_of_logits_of_another_dtype(api, kind):
    for axis in (0, 1):
        out = np.zeros((6, 6))
        x = out.view(kind)[:, :6]
        x[...] = logits((6, 6), "float64") % 10
        exact = exact_along(x.astype(np.float64), axis)
        api.softmax(x, axis, dtype=np.float64, out=out)
        assert_accurate(out, exact.softmax)


@pytest.mark.parametrize("length", [97, 130, 1000, 5000])
@pytest.mark.parametrize("dtype", DTYPES)
def test_where_arrays_lie_does_not_change_a_bit(api, dtype, length):
    """Kernels store whole vectors where these are aligned, and let the first and last overlap."""
    x, grad = logits((2, 3, length), dtype)
    y, log_y = api.softmax(x, -1), api.log_softmax(x, -1)
    calls = {
        "softmax": (x,),
        "log_softmax": (x,),
        "softmax_backward": (grad, y),
        "log_softmax_backward": (grad, log_y),
    }
    for function, arguments in calls.items():
        call = getattr(api, function)
        wanted = call(*arguments, -1)
        for offset in range(64 // x.itemsize):
            out = np.empty(x.size + offset, dtype)[offset:].reshape(x.shape)
            np.testing.assert_array_equal(call(*arguments, -1, out=out), wanted, strict=True)
            for place in range(len(arguments)):
                out[...] = arguments[place]
                in_place = [out if k == place else a for k, a in enumerate(arguments)]
                np.testing.assert_array_equal(call(*in_place, -1, out=out), wanted, strict=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_out_may_overlap_the_temperature(api, dtype):
    for axis in (0, 1):
        out = np.exp(logits((6, 6), dtype))
        temperature = out[:, 2:3] if axis == 1 else out[2:3]
        x = logits((6, 6), dtype)
        alone = temperature.astype(np.float64)
        exact = oracle.exact(x if axis == 1 else x.T, alone if axis == 1 else alone.T)
        api.softmax(x, axis, temperature=temperature, out=out)
        assert_accurate(out if axis == 1 else out.T, exact.softmax)


@pytest.mark.parametrize("dtype", DTYPES)
def test_out_may_overlap_the_mask(api, dtype):
    out = np.zeros((6, 6), dtype)
    where = out.view(bool)[:, :6]
    where[...] = np.eye(6) == 0
    x = logits((6, 6), dtype)
    exact = oracle.exact(np.where(where, x, -np.inf))
    api.softmax(x, 1, where=where, out=out)
    assert_accurate(out, exact.softmax)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_out_of_logsumexp_may_overlap_its_arguments(api, dtype):
    for axis in (0, 1):
        for part in (np.s_[0], np.s_[:, 3], np.s_[::-1, 0], np.s_[::-1, 5]):
            a = logits((6, 6), dtype)
            exact = exact_along(a.copy(), axis)
            before = a.copy()
            out = a[part]
            assert api.logsumexp(a, axis, out=out) is out
            assert_logsumexp_accurate(out, exact, before, axis)
            b = np.exp2(np.rint(logits((6, 6), dtype)))
            wanted = api.logsumexp(before + np.log(b), axis)
            api.logsumexp(before, axis, b, out=b[2])
            np.testing.assert_allclose(b[2], wanted, rtol=1e-5)


def test_logsumexp_with_everything_it_returns(api):
    a = logits((2, 3, 4), "float64")
    b = np.where(a > 0, -1.0, 2.0)
    wanted, wanted_sign = api.logsumexp(a, (0, 2), b, return_sign=True)
    for keepdims, shape in ((False, (3,)), (True, (1, 3, 1))):
        out = np.zeros(shape)
        got, sign = api.logsumexp(a, (0, 2), b, keepdims, return_sign=True, out=out)
        assert got is out
        np.testing.assert_array_equal(out.reshape(3), wanted)
        np.testing.assert_array_equal(sign.reshape(3), wanted_sign)


def test_a_number_into_an_array_of_no_dimensions(api):
    for function, value in (("softmax", 1.0), ("log_softmax", 0.0), ("logsumexp", 3.0)):
        out = np.zeros(())
        assert getattr(api, function)(3.0, out=out) is out
        assert out == value


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
def test_out_of_another_dtype_than_the_logits(api, dtype):
    x = np.array([[1, 2, 3], [4, 5, 7]], np.int8)
    out = np.zeros(x.shape, dtype)
    api.softmax(x, 1, dtype=dtype, out=out)
    exact = oracle.exact(x.astype(np.float64))
    np.testing.assert_allclose(out, exact.softmax, rtol=4 * max(np.finfo(dtype).eps, 1e-16))


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [
        ("float16", "float32"),
        ("float32", "float64"),
        ("float32", "longdouble"),
        ("int32", "float64"),
        ("uint8", "float64"),
    ],
)
@pytest.mark.parametrize("shape", [(8,), (5000,), (40, 50)])
def test_out_may_overlap_narrower_logits(api, narrow, wide, shape):
    size = int(np.prod(shape))
    for begin in (0, 1, size):
        memory = np.zeros(2 * size, wide)
        x = memory.view(narrow)[begin : begin + size].reshape(shape)
        x[...] = np.arange(size).reshape(shape) % 5
        out = memory[:size].reshape(shape)
        for function in ("softmax", "log_softmax"):
            before = x.copy()
            wanted = getattr(api, function)(before, -1, dtype=wide)
            assert getattr(api, function)(x, -1, dtype=wide, out=out) is out
            np.testing.assert_array_equal(out, wanted)
            memory.view(np.uint8)[...] = 0
            x[...] = before


CONFORMING = {
    "rows": ((1000, 1000), -1, lambda a: a),
    "columns": ((1000, 1000), 0, lambda a: a),
    "Fortran order": ((1000, 1000), 0, lambda a: a.T),
    "middle axis": ((100, 100, 100), 1, lambda a: a),
    "outer axes, transposed": ((100, 100, 100), 2, lambda a: a.transpose(1, 0, 2)),
    "every other row": ((2000, 1000), -1, lambda a: a[::2]),
    "rows of a wider array": ((1000, 1020), -1, lambda a: a[:, 10:-10]),
    "columns of a wider array": ((1000, 1020), 0, lambda a: a[:, 10:-10]),
    "two adjacent axes": ((100, 100, 100), (1, 2), lambda a: a),
}


@pytest.mark.thread_unsafe(reason="all threads' memory is traced together")
@pytest.mark.parametrize("case", CONFORMING)
def test_nothing_is_copied_that_need_not_be(api, case):
    """Of views in which the axis and the axes around it merge, with a place for the result."""
    shape, axis, view = CONFORMING[case]
    x, out = view(np.zeros(shape)), view(np.zeros(shape))
    for options in ({}, {"temperature": 2.0}):
        tracemalloc.start()
        try:
            api.softmax(x, axis, out=out, **options)
            api.log_softmax(x, axis, out=out, **options)
            api.softmax(out, axis, out=out, **options)
            api.logsumexp(x, axis)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < x.nbytes / 2
