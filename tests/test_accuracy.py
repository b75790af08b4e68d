"""Every backend is within 3 ULP of the exact result, at any magnitude of finite logits."""

from functools import cache

import numpy as np
import pytest

import logits
import oracle
from layouts import ARRANGEMENTS
from oracle import assert_all_accurate

DTYPES = ("float32", "float64")
SHAPES = ((6, 1000), (60, 10))  # slices, elements of a slice


@cache
def known(name: str, shape: tuple[int, int], dtype: str, temperature: float = 1.0):
    x = logits.make(name, shape, dtype)
    return x, oracle.exact(x, temperature)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("name", "dtype"), logits.CASES)
def test_within_the_bound(api, name, dtype, shape):
    for arrangement in ARRANGEMENTS.values():
        assert_all_accurate(api, *known(name, shape, dtype), arrangement)


@pytest.mark.parametrize("name", ["normal 1", "all one third"])
@pytest.mark.parametrize("dtype", DTYPES if oracle.EXTENDED else DTYPES[:1])
def test_within_the_bound_for_a_million_elements(api, name, dtype):
    assert_all_accurate(api, *known(name, (1, 1_000_000), dtype), ARRANGEMENTS["rows"])


@pytest.mark.parametrize("temperature", [1e-3, 0.1, 1 / 3, 0.7, 3.0, 1e3, 2.0**-59, 2.0**59])
@pytest.mark.parametrize("name", ["normal 1", "normal 100", "around 1e4", "as large as 1e30"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_temperature_costs_no_accuracy(api, name, dtype, temperature):
    x, exact = known(name, (6, 300), dtype, temperature)
    for arrangement in ARRANGEMENTS.values():
        assert_all_accurate(api, x, exact, arrangement, temperature=temperature)


@pytest.mark.parametrize("temperature", [1e-300, 2.0**-61, 2.0**-60, 2.0**60, 2.0**61, 1e300])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_temperature_of_any_magnitude_is_exact(api, dtype, temperature):
    x, exact = known("normal 10", (6, 50), dtype, temperature)
    assert_all_accurate(api, x, exact, ARRANGEMENTS["rows"], temperature=temperature)


@pytest.mark.parametrize("length", [*range(1, 70), 127, 191])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_logits_get_shares_of_exactly_one_over_their_number(api, dtype, length):
    rng = np.random.default_rng(length)
    x = np.repeat(rng.normal(0.0, 10.0, (99, 1)).astype(dtype), length, axis=1)
    share = np.ones(1, dtype) / np.array(length, dtype)
    np.testing.assert_array_equal(api.softmax(x, -1), np.broadcast_to(share, x.shape))
    np.testing.assert_array_equal(api.softmax(x.T.copy(), 0), np.broadcast_to(share, x.T.shape))


def test_a_dominated_row_keeps_its_digits(api):
    """The largest term rounds the others away, unless it is kept out of their sum."""
    x = np.array([0.0, -40.0])
    assert api.log_softmax(x)[0] == pytest.approx(-4.248354255291589e-18, rel=1e-15)
    assert api.logsumexp(x) == pytest.approx(4.248354255291589e-18, rel=1e-15)
    x = np.float32([0.0, -40.0])
    assert api.log_softmax(x)[0] == pytest.approx(-4.2483543e-18, rel=1e-6)
    assert api.logsumexp(x) == pytest.approx(4.2483543e-18, rel=1e-6)


@pytest.mark.parametrize("length", [2, 3, 5, 8, 9, 16, 17, 31, 64, 100, 257])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_dominated_row_keeps_its_digits_wherever_the_largest_stands(api, dtype, length):
    x = np.full((length, length), -50.0, dtype)
    np.fill_diagonal(x, 0.0)
    for arrangement in ARRANGEMENTS.values():
        assert_all_accurate(api, x, oracle.exact(x), arrangement)


def many_rows(elements: int, length: int, deviation: float):
    """Rows of float32, and their exponentials relative to the largest."""
    x = np.random.default_rng(length).normal(0.0, deviation, (elements // length, length))
    x = x.astype(np.float32)
    wide = x.astype(np.longdouble)
    return x, np.exp(wide - wide.max(1, keepdims=True))


@pytest.mark.skipif(not oracle.EXTENDED, reason="needs a long double of more than 64 bits")
@pytest.mark.parametrize(("length", "deviation"), [(4, 3.0), (7, 5.0), (200, 10.0)])
def test_the_logarithm_of_rows_that_a_few_elements_lead(api, length, deviation):
    """Its error is theirs, and of many rows some have the worst; in units at most 2."""
    x, terms = many_rows(1_200_000, length, deviation)
    at = x.argmax(1)[:, np.newaxis]
    np.put_along_axis(terms, at, 0, 1)
    exact = np.log1p(terms.sum(1))
    bound = 2 * np.spacing(exact.astype(np.float32))
    for arrangement in ARRANGEMENTS.values():
        got = api.log_softmax(arrangement.place(x), arrangement.axis)
        largest = np.take_along_axis(arrangement.rows(got), at, 1)[:, 0]
        assert (np.abs(largest + exact) <= bound).all()


@pytest.mark.skipif(not oracle.EXTENDED, reason="needs a long double of more than 64 bits")
@pytest.mark.parametrize(("length", "deviation"), [(5, 10.0), (7, 5.0), (90, 5.0)])
def test_the_shares_of_many_rows(api, length, deviation):
    """A few of millions have the worst of all errors there are; in units at most 3."""
    x, terms = many_rows(2_400_000, length, deviation)
    exact = terms / terms.sum(1, keepdims=True)
    is_normal = exact > np.finfo(np.float32).tiny
    bound = 3 * np.spacing(exact.astype(np.float32))
    for arrangement in ARRANGEMENTS.values():
        got = arrangement.rows(api.softmax(arrangement.place(x), arrangement.axis))
        assert (np.abs(got - exact) <= bound)[is_normal].all()
