"""Replacing scipy.special by this package changes no result, except where SciPy is wrong.

SciPy is asked in the next wider dtype, in which its rounding errors vanish beside ours; of
integers, whose differences it lets wrap around, after their conversion to float64.
"""

import inspect

import numpy as np
import pytest
import scipy
import scipy.special
from hypothesis import assume, given
from hypothesis import strategies as st

import strategies
from strategies import arrays_and_axes

REAL_AND_INTEGER = strategies.REAL + strategies.INTEGER
WIDER = {
    np.float16: np.float64,
    np.float32: np.float64,
    np.float64: np.longdouble,
    np.longdouble: np.longdouble,
    np.complex64: np.complex128,
    np.complex128: np.clongdouble,
    np.clongdouble: np.clongdouble,
}
# Its log-sum-exp of infinite, signed and complex terms was mended up to this release.
current_scipy = pytest.mark.skipif(
    tuple(int(part) for part in scipy.__version__.split(".")[:2]) < (1, 17),
    reason="this SciPy's log-sum-exp is wrong for some infinite, signed and complex terms",
)
FAR = 2000
"""By how much SciPy's error may grow: the difference of logits beyond which an exponential is 0."""


def floating(dtype: np.dtype) -> type:
    """The dtype of the results for input of `dtype`."""
    return dtype.type if dtype.type in WIDER else np.float64


def from_scipy(function, x, *arguments, b=None, **options):
    """SciPy's results for x (and b), from the next wider dtype."""
    dtype = floating(x.dtype if b is None else np.result_type(x, b))
    with np.errstate(all="ignore"):
        x = x.astype(floating(x.dtype)).astype(WIDER[dtype])
        if b is not None:
            options["b"] = b.astype(WIDER[dtype])
            x = np.where(b == 0, 0, x)  # of which SciPy sums 0 * exp(x), and may meet 0 * inf
        return getattr(scipy.special, function)(x, *arguments, **options)


def assert_agrees(got, wanted, dtype, magnitude=0.0, ulps=4):
    """Same kind, shape and values, to a few rounding errors of `dtype`.

    `magnitude` is the size of what cancels in the last step to give the result.
    """
    here, there = np.finfo(dtype), np.finfo(WIDER[dtype])
    assert isinstance(got, np.generic if np.ndim(wanted) == 0 else np.ndarray)
    assert got.dtype == dtype
    assert got.dtype.isnative
    assert got.shape == np.shape(wanted)
    with np.errstate(all="ignore"):
        got, wanted = (np.asarray(a).astype(dtype).astype(WIDER[dtype]) for a in (got, wanted))
        if got.dtype.kind == "c":  # a logarithm's imaginary part is an angle
            turns = np.rint((got - wanted).imag / (2 * np.pi))
            wanted += 2j * np.pi * np.where(np.isfinite(turns), turns, 0)
        relative = ulps * here.eps + FAR * there.eps
        absolute = ulps * (here.smallest_subnormal + there.eps + magnitude * here.eps)
        close = np.isclose(got, wanted, relative, absolute, equal_nan=True)
    assert np.all(close), (
        f"{got[~close][:5]} are not {wanted[~close][:5]}, at {np.argwhere(~close)[:5]}"
    )


def cancelling(x, axis, keepdims=False):
    """The size of a negative maximum, to which log-sum-exp adds a positive number."""
    top = np.max(x.astype(np.longdouble), axis, keepdims=keepdims, initial=-np.inf)
    return np.where(np.isfinite(top) & (top < 0), -top, 0.0)


@pytest.mark.parametrize("function", ["softmax", "log_softmax", "logsumexp"])
def test_signatures_begin_as_those_of_scipy(api, function):
    ours = inspect.signature(getattr(api, function)).parameters.values()
    theirs = inspect.signature(getattr(scipy.special, function)).parameters.values()
    shared = [p for p in ours if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    assert [(p.name, p.default) for p in shared] == [(p.name, p.default) for p in theirs]
    options = {"where": None, "dtype": None, "out": None, "workers": None}
    options |= {"temperature": 1.0} if function != "logsumexp" else {}
    added = [p for p in ours if p.kind is inspect.Parameter.KEYWORD_ONLY]
    assert {p.name: p.default for p in added} == options


@pytest.mark.parametrize("function", ["softmax", "log_softmax"])
@given(case=arrays_and_axes(REAL_AND_INTEGER))
def test_softmax_and_log_softmax(api, function, case):
    x, axis = case
    before = x.copy()
    got = getattr(api, function)(x, axis=axis)
    wanted = from_scipy(function, x, axis=axis) if x.size else np.empty(x.shape)
    assert_agrees(got, wanted, floating(x.dtype))
    np.testing.assert_array_equal(x, before)


@given(case=arrays_and_axes(REAL_AND_INTEGER), keepdims=st.booleans())
def test_logsumexp(api, case, keepdims):
    x, axis = case
    assume(x.ndim or (axis is None and not keepdims))  # else SciPy gives a number a dimension
    before = x.copy()
    got = api.logsumexp(x, axis, keepdims=keepdims)
    if x.size:
        wanted = from_scipy("logsumexp", x, axis, keepdims=keepdims)
    else:
        wanted = np.full_like(np.sum(x, axis, keepdims=keepdims), -np.inf, float)[()]
    assert_agrees(got, wanted, floating(x.dtype), cancelling(x, axis, keepdims))
    np.testing.assert_array_equal(x, before)


@current_scipy
@given(case=arrays_and_axes(REAL_AND_INTEGER, min_dims=1), keepdims=st.booleans())
def test_logsumexp_with_its_sign(api, case, keepdims):
    x, axis = case
    assume(x.size)
    options = {"axis": axis, "keepdims": keepdims, "return_sign": True}
    got, sign = api.logsumexp(x, **options)
    wanted, wanted_sign = from_scipy("logsumexp", x, **options)
    assert_agrees(got, wanted, floating(x.dtype), cancelling(x, axis, keepdims))
    assert_agrees(sign, wanted_sign, floating(x.dtype))


def well_conditioned(a, b, axis):
    """Whether no sum of the exponentials of a, weighted by b, is much less than its terms."""
    a = np.where(b == 0, -np.inf, a)
    with np.errstate(all="ignore"):
        top = a.real.max(axis, keepdims=True)
        terms = b * np.exp(a - np.where(np.isfinite(top), top, 0))
        return not np.any(np.abs(terms.sum(axis)) < 0.1 * np.abs(terms).sum(axis))


@current_scipy
@pytest.mark.parametrize("function", ["softmax", "log_softmax", "logsumexp"])
@given(case=arrays_and_axes(strategies.COMPLEX, min_dims=1))
def test_complex(api, function, case):
    x, axis = case
    assume(x.size and well_conditioned(x, 1.0, axis))
    got = getattr(api, function)(x, axis)
    wanted = from_scipy(function, x, axis)
    assert_agrees(got, wanted, floating(x.dtype), np.abs(x).max(), ulps=100)


@st.composite
def weighted(draw):
    """Logits, weights that broadcast against them, and an axis."""
    x, axis = draw(arrays_and_axes(("float32", "float64", "int16", "complex128"), min_dims=1))
    shape = tuple(draw(st.sampled_from([n, 1])) for n in x.shape)
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["float32", "float64", "int8", "complex64", "bool"]))
    return x, rng.choice([-2.0, -0.5, 0.0, 1.0, 3.25], shape).astype(kind), axis


@current_scipy
@given(case=weighted(), keepdims=st.booleans(), return_sign=st.booleans())
def test_weights(api, case, keepdims, return_sign):
    x, b, axis = case
    dtype = floating(np.result_type(x, b))
    assume(x.size and well_conditioned(x.astype(WIDER[dtype]), b, axis))
    # SciPy loses every term that is small beside one whose weight is 0.
    counts = np.where(b == 0, -np.inf, x.real)
    assume(np.array_equal(x.real.max(axis), counts.max(axis), equal_nan=True))
    # Nor does it find the phase of an infinite sum.
    assume(dtype(0).dtype.kind == "f" or not np.isposinf(x.real).any())
    options = {"axis": axis, "keepdims": keepdims, "return_sign": return_sign}
    got = api.logsumexp(x, b=b, **options)
    wanted = from_scipy("logsumexp", x, b=b, **options)
    if not return_sign and dtype(0).dtype.kind == "f":
        # Only with a sign does SciPy find that of a sum whose logarithm is far below 0.
        log, sign = from_scipy("logsumexp", x, b=b, **{**options, "return_sign": True})
        wanted = np.where(sign < 0, np.nan, log)[()]
    finite = np.abs(x[np.isfinite(x)])
    for ours, theirs in zip(got, wanted, strict=True) if return_sign else [(got, wanted)]:
        part = dtype if theirs.dtype.kind == "c" else dtype(0).real.dtype.type
        assert_agrees(ours, theirs, part, finite.max(initial=1.0), ulps=100)


REALS = [-np.inf, -10.0, -1.0, 0.0, 2.5, np.inf, np.nan]
WEIGHTS = [-np.inf, -1.5, -1.0, -0.0, 0.0, 1.0, 3.0, np.inf, np.nan]
PHASES = [0.0, -0.0, 0.7533, 2.3562, 3.927, 5.4978, np.inf, -np.inf]
COMPLEX_INFINITIES = [complex(real, phase) for real in (-np.inf, np.inf) for phase in PHASES]


def pairs(*columns):
    """All pairs of elements of the columns' product, one pair to a row."""
    table = np.array(np.meshgrid(*columns, *columns, indexing="ij"))
    return table.reshape(2, len(columns), -1).transpose(1, 2, 0)


@current_scipy
@pytest.mark.parametrize("return_sign", [False, True])
def test_special_values_with_special_weights(api, return_sign):
    a, b = pairs(REALS, WEIGHTS)
    got = api.logsumexp(a, 1, b, return_sign=return_sign)
    wanted = from_scipy("logsumexp", a, 1, b=b, return_sign=return_sign)
    for ours, theirs in zip(got, wanted, strict=True) if return_sign else [(got, wanted)]:
        assert_agrees(ours, theirs, np.float64, ulps=100)


@current_scipy
@pytest.mark.parametrize("return_sign", [False, True])
def test_complex_infinities(api, return_sign):
    (a,) = pairs(COMPLEX_INFINITIES)
    got = api.logsumexp(a, 1, return_sign=return_sign)
    with np.errstate(all="ignore"):
        wanted = scipy.special.logsumexp(a, 1, return_sign=return_sign)
    if return_sign:
        (got, phase), (wanted, wanted_phase) = got, wanted
        known = ~np.isnan(wanted_phase)  # SciPy has no phase where the real part is infinite
        np.testing.assert_allclose(phase[known], wanted_phase[known], 1e-13)
    number = ~np.isnan(wanted)
    np.testing.assert_array_equal(~np.isnan(got), number)
    np.testing.assert_array_equal(got.real[number], wanted.real[number])
    np.testing.assert_allclose(got.imag[number], wanted.imag[number], 1e-13)
