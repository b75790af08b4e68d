"""Arrays beyond the last-level cache: see kernels/stream.h and kernels/long_rows.h.

A processor with a larger cache than these arrays treats them as others; the tests hold there too.
"""

import numpy as np
import pytest

NBYTES = 3 << 24
CANARY = 0x5A


@pytest.mark.parametrize("length", [103, 300, 451, 1024, 1501, 4096, 5003, 20011])
@pytest.mark.parametrize("offset", [0, 1, 7])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("function", ["softmax", "log_softmax"])
def test_a_large_array_is_its_rows(api, function, dtype, offset, length):
    """The same bits as row by row, and nothing written beside the result, wherever it begins."""
    if api._kernels.name not in ("avx2", "avx512"):
        pytest.skip("nothing is stored past the caches")
    itemsize = np.dtype(dtype).itemsize
    rows = NBYTES // itemsize // length
    x = np.random.default_rng(length).normal(0, 5, (rows, length)).astype(dtype)
    memory = np.full(x.nbytes + 256, CANARY, np.uint8)
    begin = -memory.ctypes.data % 64 + offset * itemsize
    out = memory[begin : begin + x.nbytes].view(dtype).reshape(x.shape)

    call = getattr(api, function)
    call(x, axis=-1, out=out, workers=1)
    for some in (slice(0, 40), slice(rows - 40, rows)):
        np.testing.assert_array_equal(out[some], call(x[some], axis=-1))
    shares = out if function == "softmax" else np.exp(out)
    np.testing.assert_allclose(shares.sum(axis=-1, dtype=np.float64), 1, rtol=1e-5)
    assert (memory[:begin] == CANARY).all()
    assert (memory[begin + x.nbytes :] == CANARY).all()


def test_logsumexp_of_a_large_array_is_that_of_its_rows(api):
    x = np.random.default_rng(0).normal(0, 5, (2000, 6000)).astype(np.float32)
    result = api.logsumexp(x, axis=-1)
    for some in (slice(0, 3), slice(1997, 2000)):
        np.testing.assert_array_equal(result[some], api.logsumexp(x[some], axis=-1))


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("shape", [(1700, 5003), (17000, 503)])
@pytest.mark.parametrize("function", ["softmax", "log_softmax"])
def test_special_values_in_a_row_that_is_streamed(api, function, shape, special):
    """They change that row, and neither the one before nor the one after."""
    x = np.random.default_rng(0).normal(0, 5, shape).astype(np.float32)
    call = getattr(api, function)
    expected = call(x[799:802], axis=-1)
    x[800] = special
    result = call(x, axis=-1)
    np.testing.assert_array_equal(result[[799, 801]], expected[[0, 2]])
    assert np.isnan(result[800]).all()


@pytest.mark.parametrize("length", [503, 5003])
@pytest.mark.parametrize("function", ["softmax", "log_softmax"])
def test_temperatures_of_rows_that_are_streamed(api, function, length):
    x = np.random.default_rng(0).normal(0, 5, ((3 << 23) // length, length)).astype(np.float32)
    temperature = np.linspace(0.5, 4, len(x))[:, None]
    call = getattr(api, function)
    result = call(x, axis=-1, temperature=temperature)
    for some in (slice(0, 3), slice(len(x) - 3, len(x))):
        expected = call(x[some], axis=-1, temperature=temperature[some])
        np.testing.assert_array_equal(result[some], expected)


@pytest.mark.parametrize("offset", [0, 3])
@pytest.mark.parametrize("centre", [0.0, 3e5])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_row_beyond_the_cache_is_within_the_bound(api, dtype, centre, offset):
    """Its parts differ in their maxima, and one has no element that counts."""
    if api._kernels.name == "numpy":
        pytest.skip("it has no parts of rows")
    length = 5_000_011
    x = np.random.default_rng(0).normal(0, 3, length).astype(dtype)
    x[1_000_000:2_000_000] -= 200
    x[2_000_000:3_000_000] = -np.inf
    x[3_000_000:] += np.linspace(-5, 5, length - 3_000_000, dtype=dtype)
    x += dtype(centre)
    memory = np.full(x.nbytes + 256, CANARY, np.uint8)
    begin = -memory.ctypes.data % 64 + offset * x.itemsize
    out = memory[begin : begin + x.nbytes].view(dtype)
    distances = x.astype(np.longdouble) - np.longdouble(x.max())
    terms = np.exp(distances)
    log_sum = np.log(terms.sum())

    for function, wanted, ulps in (
        (api.softmax, terms / terms.sum(), 3),
        (api.log_softmax, distances - log_sum, 2),
    ):
        function(x, out=out, workers=1)
        finite = np.isfinite(wanted)
        unit = np.spacing(np.abs(wanted[finite]).astype(dtype))
        assert (np.abs(out[finite] - wanted[finite]) <= ulps * unit).all()
        np.testing.assert_array_equal(np.isfinite(out), finite)
        assert (memory[:begin] == CANARY).all()
        assert (memory[begin + x.nbytes :] == CANARY).all()
        np.testing.assert_array_equal(function(x, workers=3), out)
    wanted = np.longdouble(x.max()) + log_sum
    assert abs(api.logsumexp(x) - wanted) <= 2 * np.spacing(dtype(wanted))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("at", [[0], [299_999], [5, 250_000], [100, 101]])
def test_the_logarithm_of_a_row_in_parts_keeps_its_digits(api, at, dtype):
    """Where nearly all of it goes to one element, or is shared by two, in whichever parts."""
    x = np.random.default_rng(0).normal(0, 1, 300_001).astype(dtype)
    x[at] = 40
    rest = np.exp(np.delete(x, at).astype(np.longdouble) - 40).sum()
    wanted = -(np.log(np.longdouble(len(at))) + np.log1p(rest / len(at)))
    got = api.log_softmax(x)[at]
    assert (np.abs(got - wanted) <= 2 * np.spacing(np.abs(wanted).astype(dtype))).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(14_001, 10), (70_003, 2), (1030, 128), (2, 1500, 100)], ids=str)
def test_tall_columns_are_rows(api, shape, dtype):
    """In parts, which differ in their maxima; with what options there are."""
    rng = np.random.default_rng(0)
    x = rng.normal(0, 3, shape) + np.linspace(0, 20, shape[-2])[:, np.newaxis]
    x = x.astype(dtype)
    rows = np.ascontiguousarray(np.swapaxes(x, -1, -2))
    bound = 4 * np.finfo(dtype).eps
    for options in (
        {},
        {"temperature": 3.0},
        {"where": rng.random((shape[-2], 1)) < 0.7},
    ):
        of_rows = dict(options)
        if "where" in options:
            of_rows["where"] = options["where"].T
        for function in (api.softmax, api.log_softmax):
            got = function(x, axis=-2, **options)
            wanted = np.swapaxes(function(rows, axis=-1, **of_rows), -1, -2)
            np.testing.assert_allclose(got, wanted, rtol=bound, atol=np.finfo(dtype).tiny)
    got = api.logsumexp(x, axis=-2)
    np.testing.assert_allclose(got, api.logsumexp(rows, axis=-1), rtol=bound)


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_tall_columns_with_special_values(api, special):
    """They change their own column alone, whichever part they are in."""
    x = np.random.default_rng(0).normal(0, 3, (14_001, 10)).astype(np.float32)
    for at in (0, 9_000, 14_000):
        y = x.copy()
        y[at, 3] = special
        expected = np.exp(np.delete(y, at, 0)[:, 3].astype(np.float64)).sum()
        for function in (api.softmax, api.log_softmax, api.logsumexp):
            got, wanted = function(y, axis=0), function(x, axis=0)
            others = [c for c in range(10) if c != 3]
            np.testing.assert_array_equal(got[..., others], wanted[..., others])
        if special == -np.inf:
            assert api.softmax(y, axis=0)[at, 3] == 0
            np.testing.assert_allclose(api.logsumexp(y, axis=0)[3], np.log(expected), rtol=1e-6)
        else:
            assert np.isnan(api.softmax(y, axis=0)[:, 3]).all()
            np.testing.assert_array_equal(api.logsumexp(y, axis=0)[3], np.float32(special))
    y[:, 3] = -np.inf
    assert api.logsumexp(y, axis=0)[3] == -np.inf


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_row_beyond_the_cache_with_special_values(api, dtype, workers, special):
    x = np.zeros(5_000_011, dtype)
    x[4_321_000] = special
    result = api.softmax(x, workers=workers)
    if special == -np.inf:
        assert result[4_321_000] == 0
        result[4_321_000] = result[0]
        assert (result == dtype(1 / 5_000_010)).all()
    else:
        assert np.isnan(result).all()
    x[:] = -np.inf
    assert np.isnan(api.softmax(x, workers=workers)).all()


@pytest.mark.parametrize("step", [0.5, 8, 30, 50, 400])
@pytest.mark.parametrize("centre", [0, 5690, -5690, 11_380, -11_380, 1e6])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_long_row_whose_parts_are_far_apart(api, dtype, centre, step):
    """The parts' sums and terms lie powers of two apart, or have to be found in another frame."""
    length = 300_011
    x = np.random.default_rng(0).normal(0, 1, length)
    steps = np.random.default_rng(1).permutation(length // 10_000 + 1)
    x = (x - step * steps[np.arange(length) // 10_000] + centre).astype(dtype)
    distances = x.astype(np.longdouble) - np.longdouble(x.max())
    terms = np.exp(distances)
    expected = terms / terms.sum()
    unit = np.spacing(expected.astype(dtype))
    where = np.arange(length) % 20_000 > 100
    masked = np.where(where, terms, 0) / terms[where].sum()

    result = api.softmax(x)
    assert (np.abs(result - expected) <= 3 * unit).all()
    assert (
        np.abs(api.softmax(x, where=where) - masked) <= 3 * np.spacing(masked.astype(dtype))
    ).all()
    log_sum = np.log(terms.sum())
    error = np.abs(api.log_softmax(x) - (distances - log_sum))
    assert (error <= 2 * np.spacing(np.abs(distances - log_sum).astype(dtype))).all()
    total = np.longdouble(x.max()) + log_sum
    assert abs(api.logsumexp(x) - total) <= 2 * np.spacing(np.abs(total).astype(dtype))
    in_place = x.copy()
    api.softmax(in_place, out=in_place)
    np.testing.assert_array_equal(in_place, result)
