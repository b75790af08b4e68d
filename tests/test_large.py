"""Arrays beyond the last-level cache: see kernels/stream.h and kernels/long_rows.h.

A processor with a larger cache than these arrays treats them as others; the tests hold there too.
"""

import numpy as np
import pytest

NBYTES = 3 << 24
CANARY = 0x5A


@pytest.mark.parametrize("length", [4096, 5003, 20011])
@pytest.mark.parametrize("offset", [0, 1, 7])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_large_array_is_its_rows(api, dtype, offset, length):
    """The same bits as row by row, and nothing written beside the result, wherever it begins."""
    if api._kernels.name == "numpy":
        pytest.skip("nothing is streamed")
    itemsize = np.dtype(dtype).itemsize
    rows = NBYTES // itemsize // length
    x = np.random.default_rng(length).normal(0, 5, (rows, length)).astype(dtype)
    memory = np.full(x.nbytes + 256, CANARY, np.uint8)
    begin = -memory.ctypes.data % 64 + offset * itemsize
    out = memory[begin : begin + x.nbytes].view(dtype).reshape(x.shape)

    api.softmax(x, axis=-1, out=out, workers=1)
    for some in (slice(0, 40), slice(rows - 40, rows)):
        np.testing.assert_array_equal(out[some], api.softmax(x[some], axis=-1))
    np.testing.assert_allclose(out.sum(axis=-1, dtype=np.float64), 1, rtol=1e-5)
    assert (memory[:begin] == CANARY).all()
    assert (memory[begin + x.nbytes :] == CANARY).all()


@pytest.mark.parametrize("offset", [0, 3])
@pytest.mark.parametrize("centre", [0.0, 3e5])
def test_a_row_beyond_the_cache_is_within_the_bound(api, centre, offset):
    """Its parts differ in their maxima, and one has no element that counts."""
    if api._kernels.name == "numpy":
        pytest.skip("nothing is streamed")
    length = 5_000_011
    x = np.random.default_rng(0).normal(0, 3, length).astype(np.float32)
    x[1_000_000:2_000_000] -= 200
    x[2_000_000:3_000_000] = -np.inf
    x[3_000_000:] += np.linspace(-5, 5, length - 3_000_000, dtype=np.float32)
    x += np.float32(centre)
    memory = np.full(x.nbytes + 256, CANARY, np.uint8)
    begin = -memory.ctypes.data % 64 + offset * 4
    out = memory[begin : begin + x.nbytes].view(np.float32)

    api.softmax(x, out=out, workers=1)
    terms = np.exp(x.astype(np.float64) - float(x.max()))
    wanted = terms / terms.sum()
    assert (np.abs(out - wanted) <= 3 * np.spacing(wanted.astype(np.float32))).all()
    assert (memory[:begin] == CANARY).all()
    assert (memory[begin + x.nbytes :] == CANARY).all()
    np.testing.assert_array_equal(api.softmax(x, workers=3), out)


@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf])
def test_a_row_beyond_the_cache_with_special_values(api, special):
    x = np.zeros(5_000_011, np.float32)
    x[4_321_000] = special
    result = api.softmax(x)
    if special == -np.inf:
        assert result[4_321_000] == 0
        result[4_321_000] = result[0]
        assert (result == np.float32(1 / 5_000_010)).all()
    else:
        assert np.isnan(result).all()
    assert np.isnan(api.softmax(np.full(5_000_011, -np.inf, np.float32))).all()
