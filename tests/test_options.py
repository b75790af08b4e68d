"""where=, temperature= and dtype=: what they select, divide by and round to."""

import ml_dtypes
import numpy as np
import pytest
import scipy.special
from hypothesis import assume, given
from hypothesis import strategies as st

import oracle
import strategies
from layouts import ARRANGEMENTS, LAYOUTS
from oracle import assert_accurate, assert_all_accurate

DTYPES = ("float32", "float64")


def of_unmasked(x, where, temperature=1.0):
    """The exact results of rows of which some elements are masked, but not all of a row.

    To the oracle they are -inf, which has the same weight: none.
    """
    return oracle.exact(np.where(where, x, -np.inf), temperature)


def assert_masked_elements_do_not_count(api, x, axis, where):
    rows, included = (np.moveaxis(a, axis, -1).reshape(-1, a.shape[axis]) for a in (x, where))
    some = included.any(axis=1)
    exact = of_unmasked(rows[some], included[some])
    for function, masked in (("softmax", 0.0), ("log_softmax", -np.inf)):
        got = np.moveaxis(getattr(api, function)(x, axis, where=where), axis, -1)
        got = got.reshape(rows.shape)
        assert np.all(got[~included] == masked)
        assert_accurate(got[some], getattr(exact, function))
    got = api.logsumexp(x, axis, where=where).reshape(-1)
    assert np.all(np.isneginf(got[~some]))
    unit = oracle.logsumexp_unit(np.where(included, rows, -np.inf)[some], exact.logsumexp)
    assert_accurate(got[some], exact.logsumexp, unit)


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("length", [1, 2, 5, 8, 16, 17, 40, 300])
@pytest.mark.parametrize("dtype", DTYPES)
def test_masked_elements_do_not_count(api, dtype, length, density):
    rng = np.random.default_rng(length)
    x = rng.normal(0.0, 5.0, (37, length)).astype(dtype)
    where = rng.random(x.shape) < density
    x[~where] = rng.choice([np.nan, np.inf, -np.inf, 1e30], np.count_nonzero(~where))
    for axis, place in ARRANGEMENTS.values():
        assert_masked_elements_do_not_count(api, place(x), axis, place(where))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_mask_may_lie_in_memory_as_it_likes(api, dtype, axis, layout):
    x = np.random.default_rng(0).normal(0.0, 5.0, (40, 40)).astype(dtype)
    where = LAYOUTS[layout](np.random.default_rng(1).random(x.shape) < 0.5)
    assert_masked_elements_do_not_count(api, x, axis, where)


@st.composite
def masked(draw):
    """An array, an axis of it, and a mask that broadcasts to it, in any layout."""
    x, axis = draw(strategies.arrays_and_axes(DTYPES, min_dims=1))
    shape = [draw(st.sampled_from([n, 1])) for n in x.shape]
    shape = shape[draw(st.integers(0, len(shape))) :]
    where = np.asarray(np.random.default_rng(x.size).random(shape) < 0.5)
    return x, axis, LAYOUTS[draw(st.sampled_from(sorted(LAYOUTS)))](where)


@given(case=masked())
def test_where_broadcasts_in_any_layout(api, case):
    """A mask does what -inf in the masked places does, if anything is left."""
    x, axis, where = case
    assume(x.size)
    included = np.broadcast_to(where, x.shape)
    some = included.any(axis, keepdims=True)
    with np.errstate(all="ignore"):
        of_included = np.where(included, x, -np.inf).astype(np.longdouble)
        softmax = np.where(some & included, scipy.special.softmax(of_included, axis), 0.0)
        log_softmax = scipy.special.log_softmax(of_included, axis)
        log_softmax = np.where(some & included, log_softmax, -np.inf)
        logsumexp = scipy.special.logsumexp(of_included, axis)
    np.testing.assert_allclose(api.softmax(x, axis, where=where), softmax, 1e-5, 1e-44)
    np.testing.assert_allclose(api.log_softmax(x, axis, where=where), log_softmax, 1e-5, 1e-18)
    np.testing.assert_allclose(api.logsumexp(x, axis, where=where), logsumexp, 1e-5, 1e-6)


@pytest.mark.parametrize("length", [2, 5, 40])
@pytest.mark.parametrize("slices", [1, 2, 6, 33])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_temperature_for_each_slice(api, dtype, slices, length):
    rng = np.random.default_rng(slices)
    x = rng.normal(0.0, 5.0, (slices, length)).astype(dtype)
    temperature = np.exp(rng.normal(0.0, 3.0, (slices, 1)))
    exact = oracle.exact(x, temperature)
    for arrangement in ARRANGEMENTS.values():
        options = {"temperature": arrangement.place(temperature)}
        assert_all_accurate(api, x, exact, arrangement, **options)


@pytest.mark.parametrize("extreme", [1e-300, 2.0**-100, 2.0**100, 1e300])
@pytest.mark.parametrize("dtype", DTYPES)
def test_an_extreme_temperature_among_ordinary_ones(api, dtype, extreme):
    x = np.random.default_rng(0).normal(0.0, 5.0, (4, 40)).astype(dtype)
    temperature = np.array([[1.0], [extreme], [0.3], [7.0]])
    exact = oracle.exact(x, temperature)
    assert_accurate(api.softmax(x, 1, temperature=temperature), exact.softmax)
    assert_accurate(api.log_softmax(x, 1, temperature=temperature), exact.log_softmax)


@pytest.mark.parametrize(
    ("axis", "shape"),
    [
        (1, (2, 1, 4)),
        (1, (2, 1, 1)),
        (1, (1, 4)),
        (1, (4,)),
        (1, (1, 1, 1)),
        (1, ()),
        (-1, (2, 3, 1)),
        (-1, (3, 1)),
        ((0, 2), (3, 1)),
        ((0, 1), (4,)),
        (None, (1, 1, 1)),
        (None, (1,)),
        ((), (2, 3, 4)),
        ((), (3, 1)),
    ],
)
@pytest.mark.parametrize("kind", ["float64", "float32", "int64"])
def test_temperatures_broadcast_over_the_slices(api, kind, axis, shape):
    x = np.random.default_rng(0).normal(0.0, 5.0, (2, 3, 4))
    temperature = np.arange(1, 1 + np.prod(shape, dtype=int)).reshape(shape).astype(kind)
    for function in ("softmax", "log_softmax"):
        got = getattr(api, function)(x, axis, temperature=temperature)
        wanted = getattr(scipy.special, function)(x / temperature, axis)
        np.testing.assert_allclose(got, wanted, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("temperature", np.append(np.exp2(np.arange(-60.0, 0, 0.37)), 1e-300))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_no_temperature_brings_near_stays_minus_infinity(api, dtype, temperature):
    for low in (-np.inf, np.finfo(dtype).min):
        x = np.array([[0, low, -1]], dtype)
        exact = oracle.exact(x, np.array([[temperature]]))
        for arrangement in ARRANGEMENTS.values():
            got = api.log_softmax(
                arrangement.place(x), arrangement.axis, temperature=float(temperature)
            )
            assert_accurate(arrangement.rows(got), exact.log_softmax)


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
@pytest.mark.parametrize("temperature", [1e-300, 1e-50, 1e-10, 3.0, 1e39])
def test_complex_numbers_of_any_temperature(api, dtype, temperature):
    for real in ([1.0, 2.0], [1e10, 2e10], [3e38, -3e38]):
        x = np.array(real, dtype)
        exact = oracle.exact(np.array([x.real], np.float64), np.array([[temperature]]))
        for function in ("softmax", "log_softmax"):
            got = getattr(api, function)(x, temperature=temperature)
            assert got.dtype == dtype
            with np.errstate(over="ignore", under="ignore"):
                wanted = getattr(exact, function)[0].astype(np.float64).astype(x.real.dtype)
            np.testing.assert_allclose(got, wanted, rtol=4 * np.finfo(dtype).eps, atol=1e-45)


@pytest.mark.parametrize(
    "temperature", [2, 2.0, np.float32(2), np.int8(2), np.array(2.0), [2.0], np.longdouble(2)]
)
def test_a_temperature_does_not_affect_the_dtype(api, temperature):
    for dtype in (np.float16, np.float32, np.float64):
        x = np.array([1, 2, 3], dtype)
        got = api.softmax(x, temperature=temperature)
        assert got.dtype == dtype
        wanted = scipy.special.softmax([0.5, 1.0, 1.5])
        np.testing.assert_allclose(got, wanted, rtol=4 * np.finfo(dtype).eps)


def test_a_temperature_evens_out_or_sharpens(api):
    x = [1.0, 2.0, 3.0]
    assert api.softmax(x, temperature=1e9) == pytest.approx([1 / 3] * 3)
    assert api.softmax(x, temperature=1e-3).tolist() == [0.0, 0.0, 1.0]


def test_where_and_temperature_together(api):
    x = np.array([[1.0, np.nan, 3.0], [4.0, 5.0, 6.0]])
    where = np.array([[True, False, True], [True, True, False]])
    temperature = np.array([[2.0], [0.5]])
    exact = of_unmasked(x, where, temperature)
    for layout in (np.ascontiguousarray, np.asfortranarray):
        options = {"where": layout(where), "temperature": temperature}
        assert_accurate(api.softmax(layout(x), 1, **options), exact.softmax)
        assert_accurate(api.log_softmax(layout(x), 1, **options), exact.log_softmax)


ROUNDED_ONCE = 0.5 + 2.0**-8
"""ULP of a result that was computed in a wider dtype; its error there is a small part of ours."""

BFLOAT16 = ml_dtypes.bfloat16


@pytest.mark.parametrize(
    ("given_dtype", "dtype", "bound"),
    [
        (np.float16, None, ROUNDED_ONCE),
        (BFLOAT16, None, ROUNDED_ONCE),
        (np.float16, np.float16, ROUNDED_ONCE),
        (np.float16, np.float32, oracle.BOUND),
        (np.float16, np.float64, oracle.BOUND),
        (np.float16, BFLOAT16, ROUNDED_ONCE),
        (BFLOAT16, np.float16, ROUNDED_ONCE),
        (BFLOAT16, np.float32, oracle.BOUND),
        (BFLOAT16, np.float64, oracle.BOUND),
        (np.float32, np.float16, ROUNDED_ONCE),
        (np.float32, BFLOAT16, ROUNDED_ONCE),
        (np.float32, np.float32, oracle.BOUND),
        (np.float32, "float64", oracle.BOUND),
        (np.float64, np.float16, ROUNDED_ONCE),
        (np.float64, BFLOAT16, ROUNDED_ONCE),
        (np.float64, "f4", ROUNDED_ONCE),
        (np.float64, float, oracle.BOUND),
        (np.int8, np.float32, ROUNDED_ONCE),
        (np.int8, None, oracle.BOUND),
        (np.uint64, np.float16, ROUNDED_ONCE),
        (np.bool_, np.float32, ROUNDED_ONCE),
        (np.bool_, BFLOAT16, ROUNDED_ONCE),
    ],
)
@pytest.mark.parametrize("arrangement", ["rows", "columns"])
def test_computed_in_the_wider_dtype_and_rounded_once(api, arrangement, given_dtype, dtype, bound):
    arrangement = ARRANGEMENTS[arrangement]
    x = np.random.default_rng(0).uniform(0.0, 20.0, (20, 50)).astype(given_dtype)
    exact = oracle.exact(x.astype(np.float64))
    is_integer = np.issubdtype(given_dtype, np.integer) or given_dtype is np.bool_
    result_dtype = np.dtype(dtype or (np.float64 if is_integer else given_dtype))
    placed = arrangement.place(x)
    for function in ("softmax", "log_softmax"):
        got = getattr(api, function)(placed, arrangement.axis, dtype=dtype)
        assert got.dtype == result_dtype
        assert_accurate(arrangement.rows(got), getattr(exact, function), bound=bound)
    got = api.logsumexp(placed, arrangement.axis, dtype=dtype)
    assert got.dtype == result_dtype
    assert_accurate(got.reshape(-1), exact.logsumexp, bound=bound)


@pytest.mark.parametrize("wide", [np.float64, np.longdouble])
@pytest.mark.parametrize("dtype", [np.float16, BFLOAT16])
def test_wider_numbers_are_rounded_to_16_bits_once(api, dtype, wide):
    """A little more or less than halfway between two numbers, by less than float32 holds."""
    eps, little = wide(float(ml_dtypes.finfo(dtype).eps)), wide(2.0**-40)
    for sign in (1, -1):
        for k in (0, 1):
            halfway = 1 + (k + wide(0.5)) * eps
            for x, wanted in (
                (halfway + little, 1 + (k + 1) * eps),
                (halfway, 1 + 2 * k * eps),
                (halfway - little, 1 + k * eps),
            ):
                got = api.logsumexp(np.array([sign * x]), dtype=dtype)
                assert got.dtype == dtype
                assert wide(float(got)) == sign * wanted
    x = np.array([[np.inf], [-np.inf], [np.nan], [1e300], [-1e300]], wide)
    got = api.logsumexp(x, 1, dtype=dtype).astype(np.float64)
    np.testing.assert_array_equal(got, [np.inf, -np.inf, np.nan, np.inf, -np.inf])


def test_longdouble_keeps_its_digits(api):
    x = np.random.default_rng(0).normal(0.0, 5.0, 50).astype(np.longdouble) / 3
    terms = np.exp(x - x.max())
    tolerance = 100 * float(np.finfo(np.longdouble).eps)
    for got, wanted in (
        (api.softmax(x), terms / terms.sum()),
        (api.log_softmax(x), x - x.max() - np.log(terms.sum())),
        (api.logsumexp(x), x.max() + np.log(terms.sum())),
    ):
        assert got.dtype == np.longdouble
        np.testing.assert_allclose(got, wanted, tolerance)
    assert api.softmax(np.float32([1, 2]), dtype=np.longdouble).dtype == np.longdouble


@pytest.mark.parametrize(("dtype", "low"), [(np.float16, 2048), (BFLOAT16, 256)])
def test_ties_are_rounded_to_even(api, dtype, low):
    """Beside 1, an even number far below has an odd logarithm, halfway between two of the dtype."""
    x = -np.arange(low, 2 * low, 2.0)
    wanted = (x - 1).astype(np.float32).astype(dtype)
    pairs = np.stack([np.ones_like(x), x], axis=-1).astype(dtype)
    np.testing.assert_array_equal(api.log_softmax(pairs, axis=-1)[:, 1], wanted)
    row = np.concatenate([[1], x]).astype(dtype)
    np.testing.assert_array_equal(api.log_softmax(row)[1:], wanted)
