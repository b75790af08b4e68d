"""Identities that softmax, log-softmax and log-sum-exp obey, whatever the digits."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import oracle
import strategies
from layouts import ARRANGEMENTS
from oracle import BOUND, assert_accurate

DTYPES = ("float32", "float64")
SHIFTS = (-(2.0**20), -1000.0, -1.0, 0.5, 64.0, 2.0**20)


@st.composite
def finite_rows(draw, dtypes=DTYPES):
    """Rows of finite logits; multiples of 1/4, so that what is added to them is exact."""
    shape = (draw(st.integers(1, 9)), draw(st.integers(1, 70)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = np.rint(4 * rng.normal(0.0, draw(st.sampled_from([1.0, 20.0])), shape)) / 4
    return x.astype(draw(st.sampled_from(dtypes)))


arrangements = st.sampled_from(list(ARRANGEMENTS.values()))


def in_rows(function, x, arrangement):
    return arrangement.rows(function(arrangement.place(x), arrangement.axis))


def assert_alike(got, wanted, ulps=2 * BOUND):
    """The same but for the errors of both."""
    assert_accurate(got, wanted.astype(np.longdouble), bound=ulps)


@given(x=finite_rows(), shift=st.sampled_from(SHIFTS), arrangement=arrangements)
def test_shift_invariance(api, x, shift, arrangement):
    shifted = x + x.dtype.type(shift)
    for function in (api.softmax, api.log_softmax):
        assert_alike(in_rows(function, shifted, arrangement), in_rows(function, x, arrangement))


@given(x=finite_rows(), arrangement=arrangements)
def test_softmax_sums_to_one(api, x, arrangement):
    sums = in_rows(api.softmax, x, arrangement).astype(np.longdouble).sum(axis=1)
    assert np.all(np.abs(sums - 1) <= BOUND * np.finfo(x.dtype).eps)


@given(x=finite_rows(), arrangement=arrangements, seed=st.integers(0, 2**32 - 1))
def test_permutation_equivariance(api, x, arrangement, seed):
    order = np.random.default_rng(seed).permutation(x.shape[1])
    for function in (api.softmax, api.log_softmax):
        got = in_rows(function, x[:, order], arrangement)
        assert_alike(got, in_rows(function, x, arrangement)[:, order])


@given(x=finite_rows(), arrangement=arrangements)
def test_softmax_keeps_the_order_of_the_logits(api, x, arrangement):
    """Of logits a quarter apart the larger has the larger softmax, unless both have underflowed."""
    order = np.argsort(x, axis=1, kind="stable")
    logits = np.take_along_axis(x, order, axis=1)
    for function in (api.softmax, api.log_softmax):
        values = np.take_along_axis(in_rows(function, x, arrangement), order, axis=1)
        rises = (values[:, 1:] > values[:, :-1]) | (values[:, 1:] == 0) & (values[:, :-1] == 0)
        assert np.all(rises | (logits[:, 1:] == logits[:, :-1]))


@given(x=finite_rows(), arrangement=arrangements)
def test_log_softmax_is_what_its_name_says(api, x, arrangement):
    with np.errstate(under="ignore"):
        back = np.exp(in_rows(api.log_softmax, x, arrangement).astype(np.longdouble))
    softmax = in_rows(api.softmax, x, arrangement).astype(np.longdouble)
    tolerance = 200 * BOUND * np.finfo(x.dtype).eps  # an exponential magnifies by its argument
    np.testing.assert_allclose(softmax, back, rtol=float(tolerance), atol=1e-44)


@given(x=finite_rows(), arrangement=arrangements)
def test_log_softmax_is_the_distance_to_logsumexp(api, x, arrangement):
    total = api.logsumexp(arrangement.place(x), arrangement.axis).reshape(-1, 1)
    difference = x.astype(np.longdouble) - total
    tolerance = 4 * BOUND * oracle.ulp(np.abs(x).max() + 5, x.dtype)
    assert np.all(np.abs(in_rows(api.log_softmax, x, arrangement) - difference) <= tolerance)


@given(x=finite_rows(), cut=st.integers(1, 69))
def test_logsumexp_of_parts(api, x, cut):
    parts = [api.logsumexp(part, axis=1) for part in (x[:, :cut], x[:, cut:])]
    whole = api.logsumexp(np.stack(parts, axis=1), axis=1)
    tolerance = 2 * BOUND * oracle.ulp(np.abs(x).max() + 5, x.dtype)
    assert np.all(np.abs(whole - api.logsumexp(x, axis=1)) <= tolerance)


@given(x=finite_rows(("float64",)), exponent=st.integers(-4, 4))
def test_a_temperature_divides_the_logits(api, x, exponent):
    temperature = 2.0**exponent
    for function in (api.softmax, api.log_softmax):
        assert_alike(function(x, 1, temperature=temperature), function(x / temperature, 1))


@given(x=strategies.arrays(("float32", "float64"), min_dims=1, specials=False))
def test_along_no_axis_every_element_is_a_slice_of_its_own(api, x):
    assert_accurate(api.softmax(x, ()), np.ones(x.shape))
    np.testing.assert_array_equal(api.log_softmax(x, ()), np.zeros(x.shape))
    np.testing.assert_array_equal(api.logsumexp(x, ()), x)
    np.testing.assert_array_equal(api.logsumexp(x[..., np.newaxis], -1), x)


@pytest.mark.parametrize("dtype", DTYPES)
def test_equal_logits_share_equally(api, dtype):
    for n in (*range(1, 40), 1000, 65_537):
        share = np.ones((), dtype) / np.array(n, dtype)
        for value in (0.1, -700.25, 1e30):
            np.testing.assert_array_equal(api.softmax(np.full(n, value, dtype)), share)


def test_one_logit_among_minus_infinities_takes_all(api):
    x = np.full((5, 40), -np.inf)
    x[:, 7] = [0.1, -3e5, 700.0, 1e-300, 12.3456789]
    for arrangement in ARRANGEMENTS.values():
        np.testing.assert_array_equal(in_rows(api.softmax, x, arrangement), np.isfinite(x))
