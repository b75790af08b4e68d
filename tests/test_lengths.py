"""Every length and every stride around the vector widths is right."""

from functools import cache

import numpy as np
import oracle
import pytest
from layouts import ARRANGEMENTS
from oracle import assert_accurate

DTYPES = ("float32", "float64")
LENGTHS = (*range(71), 127, 128, 129, 1000, 4097)
INNER_SIZES = range(1, 41)


@cache
def known(slices: int, length: int, dtype: str):
    x = np.random.default_rng([slices, length]).normal(0.0, 4.0, (slices, length)).astype(dtype)
    return x, oracle.exact(x)


def assert_slices_accurate(api, x, exact, arrangement):
    placed = arrangement.place(x)
    for function in ("softmax", "log_softmax"):
        got = getattr(api, function)(placed, axis=arrangement.axis)
        assert_accurate(arrangement.rows(got), getattr(exact, function))
    got = api.logsumexp(placed, axis=arrangement.axis)
    unit = oracle.logsumexp_unit(x, exact.logsumexp)
    assert_accurate(got.reshape(-1), exact.logsumexp, unit)


@pytest.mark.parametrize("length", [n for n in LENGTHS if n > 0])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_length_on_every_kind_of_axis(api, dtype, length):
    for arrangement in ARRANGEMENTS.values():
        for slices in (1, 2, 7):
            assert_slices_accurate(api, *known(slices, length, dtype), arrangement)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_long_axis(api, dtype):
    assert_slices_accurate(api, *known(1, 100_003, dtype), ARRANGEMENTS["rows"])
    assert_slices_accurate(api, *known(3, 33_331, dtype), ARRANGEMENTS["columns"])


@pytest.mark.parametrize("inner", INNER_SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_inner_size_of_a_strided_axis(api, dtype, inner):
    for length in (1, 2, 3, 4, 5, 8, 9, 16, 31, 100):
        x, exact = known(inner, length, dtype)
        assert_slices_accurate(api, x, exact, ARRANGEMENTS["columns"])
        assert_slices_accurate(api, x, exact, ARRANGEMENTS["middle axis"])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("columns", [64, 128, 256, 255, 257])
def test_columns_a_power_of_two_apart(api, columns, dtype):
    assert_slices_accurate(api, *known(columns, 40, dtype), ARRANGEMENTS["columns"])


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
