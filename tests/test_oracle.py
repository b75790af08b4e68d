"""The long double oracle against mpmath, and the measure of distance against known distances."""

import mpmath
import numpy as np
import pytest

import oracle

TEMPERATURES = (1.0, 0.1, 1 / 3, 7.0, 2.0**-60, 2.0**60)


@pytest.mark.skipif(not oracle.EXTENDED, reason="long double is double here, and mpmath the oracle")
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize(
    ("centre", "deviation"),
    [(0, 1e-3), (0, 1), (0, 30), (0, 300), (1e4, 5), (-1e4, 5), (0, 1e30), (1e300, 1e285)],
)
def test_long_double_is_a_hundredth_of_a_float64_ulp_from_mpmath(centre, deviation, temperature):
    rng = np.random.default_rng(0)
    x = rng.normal(centre, deviation, (4, 50))
    x[0, 7] = -np.inf
    near = oracle.by_long_double(x, temperature)
    exact = oracle.by_mpmath(x, temperature)
    for function in oracle.Exact._fields:
        got, value = getattr(near, function), getattr(exact, function)
        unit = oracle.logsumexp_unit(x, value) if function == "logsumexp" else value
        finite = np.isfinite(got)
        assert np.array_equal(finite, np.isfinite(value.astype(np.longdouble)))
        distance = np.abs(as_mpf(got[finite]) - value[finite]).astype(np.longdouble)
        assert np.all(distance <= 0.01 * oracle.ulp(unit[finite], np.float64)), function


def as_mpf(x: np.ndarray) -> np.ndarray:
    """Finite long doubles, of at most twice the bits of a float64, as mpmath numbers."""
    high = x.astype(np.float64)
    with mpmath.workdps(50):
        return oracle.to_mpf(high) + oracle.to_mpf((x - high).astype(np.float64))


def test_mpmath_by_hand():
    exact = oracle.by_mpmath(np.array([[0.0, -40.0]]))
    with mpmath.workdps(40):
        tail = mpmath.exp(-40)
        assert mpmath.almosteq(exact.softmax[0, 1], tail / (1 + tail), 1e-38)
        assert mpmath.almosteq(exact.log_softmax[0, 0], -mpmath.log1p(tail), 1e-38)
        assert mpmath.almosteq(exact.logsumexp[0], mpmath.log1p(tail), 1e-38)
    assert float(exact.logsumexp[0]) == 4.248354255291589e-18


TINY = 2.0**-149


@pytest.mark.parametrize(
    ("got", "value", "error"),
    [
        (1.0, 1.0, 0.0),
        (1.0 + 2.0**-23, 1.0, 1.0),
        (1.0 - 2.0**-24, 1.0, 0.5),
        (1.0, 1.0 - 2.0**-26, 0.25),
        (-3.0, -3.0 + 2.0**-22, 1.0),
        (0.0, 0.25 * TINY, 0.25),
        (3 * TINY, TINY, 2.0),
        (np.inf, 1e39, 0.0),
        (np.inf, 1e38, np.inf),
        (-np.inf, 1e39, np.inf),
        (-np.inf, -np.inf, 0.0),
        (0.0, -np.inf, np.inf),
        (np.nan, 1.0, np.inf),
    ],
)
@pytest.mark.parametrize("number", [np.longdouble, mpmath.mpf])
def test_ulp_error_is_the_distance_in_units_of_the_exact_value(number, got, value, error):
    assert oracle.ulp_error(np.float32([got]), np.array([number(value)])) == error
