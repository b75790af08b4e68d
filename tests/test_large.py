"""Arrays beyond the last-level cache, whose rows are streamed past it: see kernels/stream.h.

A processor with a larger cache than these arrays does not stream them; the test holds there too.
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
