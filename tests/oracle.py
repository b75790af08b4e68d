"""The exact values that the tests hold every backend to, and the distance to them in ULP.

All of it works along the last axis, on slices whose maximum is finite; what becomes of other slices
is a table in test_edges.py. With m the maximum of a slice, T the temperature and one term of a
largest logit taken out of the sum,

    d_j = (x_j - m) / T        rest = sum exp(d_j) - 1

    softmax_j = exp(d_j) / (1 + rest)
    log_softmax_j = d_j - log1p(rest)
    logsumexp = m + log1p(rest)

in which nothing cancels but the last sum, and that only where m is negative. Two arithmetics
evaluate this: mpmath with 50 digits, and long double with 64 bits, which is far quicker. The latter
holds d_j as an unevaluated sum of two numbers; test_oracle.py holds it to the former. Where long
double has fewer bits than that, float64 is left to mpmath.
"""

from typing import Any, NamedTuple

import ml_dtypes
import mpmath
import numpy as np

EXTENDED = np.finfo(np.longdouble).nmant >= 63

to_mpf = np.frompyfunc(mpmath.mpf, 1, 1)
_mpf_exp = np.frompyfunc(mpmath.exp, 1, 1)
_mpf_log1p = np.frompyfunc(mpmath.log1p, 1, 1)


class Exact(NamedTuple):
    """The exact results, in long double or as mpmath numbers."""

    softmax: np.ndarray
    log_softmax: np.ndarray
    logsumexp: np.ndarray


def exact(x: np.ndarray, temperature: Any = 1.0) -> Exact:
    """The exact results for logits of at most 64 bits, by the quicker adequate arithmetic."""
    if EXTENDED or x.dtype.itemsize < 8:
        return by_long_double(x, temperature)
    return by_mpmath(x, temperature)


def by_mpmath(x: np.ndarray, temperature: Any = 1.0) -> Exact:
    with mpmath.workdps(50):
        x = to_mpf(x.astype(np.float64))
        maximum = x.max(axis=-1, keepdims=True)
        difference = (x - maximum) / to_mpf(np.asarray(temperature, np.float64))
        exponential = _mpf_exp(difference)
        log_sum = _mpf_log1p(_all_but_one_largest(x, exponential))
        return Exact(
            softmax=exponential / _mpf_exp(log_sum),
            log_softmax=difference - log_sum,
            logsumexp=(maximum + log_sum)[..., 0],
        )


def by_long_double(x: np.ndarray, temperature: Any = 1.0) -> Exact:
    with np.errstate(all="ignore"):
        x = x.astype(np.longdouble)
        temperature = np.asarray(temperature, np.longdouble)
        maximum = x.max(axis=-1, keepdims=True)
        shifted, shift_error = _two_sum(x, -maximum)
        difference = shifted / temperature
        product, product_error = _two_product(difference, temperature)
        correction = (((shifted - product) - product_error) + shift_error) / temperature
        correction[np.isneginf(x)] = 0
        exponential = np.exp(difference) * (1 + correction)
        rest = _all_but_one_largest(x, exponential)
        return Exact(
            softmax=exponential / (1 + rest),
            log_softmax=difference - np.log1p(rest),
            logsumexp=(maximum + np.log1p(rest))[..., 0],
        )


def _all_but_one_largest(x: np.ndarray, exponential: np.ndarray) -> np.ndarray:
    others = exponential.copy()
    np.put_along_axis(others, x.argmax(axis=-1, keepdims=True), 0 * others[..., :1], axis=-1)
    return others.sum(axis=-1, keepdims=True)


def _two_sum(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """s and e, where s = fl(a + b) and a + b = s + e (Knuth)."""
    s = a + b
    v = s - a
    return s, (a - (s - v)) + (b - v)


def _two_product(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p and e, where p = fl(a b) and a b = p + e (Dekker)."""
    p = a * b
    a_high, a_low = _halves(a)
    b_high, b_low = _halves(b)
    return p, a_low * b_low - (((p - a_high * b_high) - a_low * b_high) - a_high * b_low)


def _halves(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    bits = np.finfo(a.dtype).nmant + 1
    scaled = a * (2 ** ((bits + 1) // 2) + 1)
    high = scaled - (scaled - a)
    return high, a - high


def ulp(value: np.ndarray, dtype: Any) -> np.ndarray:
    """The distance between neighbours of `dtype` in the binade of `value`, denormals included."""
    info = ml_dtypes.finfo(dtype)
    smallest_normal = np.longdouble(float(info.smallest_normal))
    magnitude = np.maximum(np.abs(np.asarray(value)).astype(np.longdouble), smallest_normal)
    exponent = np.frexp(magnitude)[1] - 1
    return np.ldexp(np.longdouble(1), exponent - info.nmant)


def ulp_error(got: np.ndarray, value: np.ndarray, unit: np.ndarray | None = None) -> np.ndarray:
    """How many ULP of the exact value (or of `unit`) lie between it and `got`.

    An infinity is right, and then 0 ULP off, only where the value rounds to it; NaN never is.
    """
    got, value = np.asarray(got), np.asarray(value)
    with np.errstate(all="ignore"):
        rounded = value.astype(np.float64).astype(got.dtype)
        distance = np.abs(got.astype(value.dtype) - value)
        error = (distance / ulp(value if unit is None else unit, got.dtype)).astype(np.float64)
    infinite = np.isinf(got) | np.isinf(rounded)
    error = np.where(infinite, np.where(got == rounded, 0.0, np.inf), error)
    return np.where(np.isnan(got), np.inf, error)


def logsumexp_unit(x: np.ndarray, value: np.ndarray) -> np.ndarray:
    """What an error of log-sum-exp is measured against.

    The result itself, unless the maximum is negative: max + log(sum) then cancels, and no method
    that adds the two can be nearer than the larger of them allows.
    """
    maximum = x.max(axis=-1).astype(np.float64)
    magnitude = np.abs(value).astype(np.float64)
    return np.where(maximum < 0, np.maximum(magnitude, np.abs(maximum)), magnitude)


BOUND = 3.0
"""What every backend promises, in ULP."""


def assert_accurate(
    got: np.ndarray, value: np.ndarray, unit: np.ndarray | None = None, bound: float = BOUND
) -> None:
    error = ulp_error(got, value, unit)
    assert error.shape == got.shape
    if np.any(error > bound):
        worst = np.unravel_index(error.argmax(), error.shape)
        raise AssertionError(
            f"{error[worst]:.4g} ULP at {tuple(map(int, worst))}: "
            f"got {got[worst]!r}, wanted {value[worst]!r}"
        )


def assert_all_accurate(api, x: np.ndarray, value: Exact, arrangement, **options: Any) -> None:
    """The functions of the rows x, arranged along some axis, against their exact results.

    The options are those that log-sum-exp does not have.
    """
    placed = arrangement.place(x)
    for function in ("softmax", "log_softmax"):
        got = getattr(api, function)(placed, arrangement.axis, **options)
        assert_accurate(arrangement.rows(got), getattr(value, function))
    if not options:
        got = api.logsumexp(placed, arrangement.axis)
        assert_accurate(got.reshape(-1), value.logsumexp, logsumexp_unit(x, value.logsumexp))


class ExactLoss(NamedTuple):
    """Losses of slices along the last axis, and gradients of their sum, as mpmath numbers."""

    loss: np.ndarray
    grad: np.ndarray
    unit: np.ndarray
    """What an error of the gradient is measured against: the sum of the magnitudes of the terms of
    p_j sum_(c != j) q_c - q_j sum_(c != j) p_c, which may cancel unless q has but one class."""


def exact_loss(x: np.ndarray, part: np.ndarray) -> ExactLoss:
    """-sum q_c log softmax(x)_c with the weighted targets q, none negative, to 50 digits."""
    with mpmath.workdps(50):
        exact = by_mpmath(x)
        q = part if part.dtype == object else to_mpf(part.astype(np.float64))
        loss = (np.where(q == 0, 0, q) * np.where(q == 0, 0, -exact.log_softmax)).sum(axis=-1)
        towards, away = (a * _sum_of_others(b) for a, b in ((exact.softmax, q), (q, exact.softmax)))
        return ExactLoss(loss, towards - away, towards + away)


def _sum_of_others(a: np.ndarray) -> np.ndarray:
    others = [np.delete(a, i, axis=-1).sum(axis=-1) for i in range(a.shape[-1])]
    return np.stack(others, axis=-1)
