"""Every length and every stride around the vector widths is right."""

from functools import cache

import numpy as np
import pytest

import oracle
from layouts import ARRANGEMENTS
from oracle import assert_all_accurate

DTYPES = ("float32", "float64")
LENGTHS = (*range(1, 71), 127, 128, 129, 1000, 4097)
SLICES = (*range(1, 41), 63, 64, 65)


@cache
def known(slices: int, length: int, dtype: str):
    x = np.random.default_rng([slices, length]).normal(0.0, 4.0, (slices, length)).astype(dtype)
    return x, oracle.exact(x)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_length_on_every_kind_of_axis(api, dtype, length):
    for arrangement in ARRANGEMENTS.values():
        for slices in (1, 2, 7):
            assert_all_accurate(api, *known(slices, length, dtype), arrangement)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_long_axis(api, dtype):
    assert_all_accurate(api, *known(1, 100_003, dtype), ARRANGEMENTS["rows"])
    assert_all_accurate(api, *known(3, 33_331, dtype), ARRANGEMENTS["columns"])


@pytest.mark.parametrize("slices", SLICES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_number_of_slices_side_by_side(api, dtype, slices):
    """Short rows share vectors as columns do, and what is left over is a part of one."""
    for length in (1, 2, 3, 4, 5, 6, 8, 9, 10, 16, 31, 64, 65):
        for arrangement in ARRANGEMENTS.values():
            assert_all_accurate(api, *known(slices, length, dtype), arrangement)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [63, 64, 65, 127, 128, 129, 255, 256, 257, 512, 600])
def test_many_columns(api, columns, dtype):
    assert_all_accurate(api, *known(columns, 40, dtype), ARRANGEMENTS["columns"])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [2, 3, 7, 10, 24, 49, 100, 300])
def test_columns_far_apart(api, columns, dtype):
    """Narrow rows may be worked on together, and logits far from 0 in a way of their own."""
    for length in (131, 300):
        x, exact = known(columns, length, dtype)
        assert_all_accurate(api, x, exact, ARRANGEMENTS["columns"])
        some_far = x + np.where(np.arange(columns) % 3 == 1, 1e6, 0.0)[:, np.newaxis].astype(dtype)
        assert_all_accurate(api, some_far, oracle.exact(some_far), ARRANGEMENTS["columns"])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 4), (0, 0), (4, 2, 0)], ids=str)
def test_no_elements(api, shape, dtype):
    x = np.empty(shape, dtype)
    for axis in (None, *range(x.ndim)):
        assert api.softmax(x, axis).shape == api.log_softmax(x, axis).shape == shape
        sums = np.asarray(api.logsumexp(x, axis))
        assert sums.shape == np.sum(x, axis).shape
        assert sums.dtype == api.softmax(x, axis).dtype == x.dtype
        assert np.all(np.isneginf(sums))
