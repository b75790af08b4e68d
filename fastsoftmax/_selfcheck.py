"""Whether the functions keep their promises on this machine.

The reference is computed in decimal arithmetic of 50 digits, so that the check needs nothing beyond
NumPy and the standard library. It works on any object that has the three functions as attributes.
"""

import itertools
import math
from collections.abc import Callable, Iterable
from decimal import Context, Decimal, localcontext
from typing import Any, NamedTuple

import numpy as np

FUNCTIONS = ("softmax", "log_softmax", "logsumexp")
DTYPES = ("float32", "float64")

ULP_BOUND = 3.0
"""Largest error that the documentation allows, in units in the last place of the exact result."""

_SHAPES = ((19, 10), (7, 137))  # slices, elements of a slice: no multiple of any vector's width
_MAGNITUDES = (  # centre and standard deviation of the logits
    (0.0, 1e-3),
    (0.0, 1.0),
    (0.0, 10.0),
    (0.0, 300.0),  # float32 and float64 softmax underflow here, through denormals, to zero
    (1e4, 1.0),
    (-1e4, 1.0),
    (0.0, 1e30),
)

CASES = tuple(itertools.product(DTYPES, _SHAPES, _MAGNITUDES))

_INF, _NAN = math.inf, math.nan


class _Special(NamedTuple):
    logits: list[float]
    softmax: list[float]
    log_softmax: list[float]
    logsumexp: float
    where: list[bool] | None = None


_SPECIAL = (
    _Special([], [], [], -_INF),
    _Special([7.0], [1.0], [0.0], 7.0),
    _Special([0.0, -_INF], [1.0, 0.0], [0.0, -_INF], 0.0),
    _Special([-_INF, -_INF], [_NAN, _NAN], [_NAN, _NAN], -_INF),
    _Special([0.0, _INF], [_NAN, _NAN], [-_INF, _NAN], _INF),
    _Special([0.0, _NAN], [_NAN, _NAN], [_NAN, _NAN], _NAN),
    _Special([5.0, _NAN], [1.0, 0.0], [0.0, -_INF], 5.0, where=[True, False]),
    _Special([_INF, _NAN], [0.0, 0.0], [-_INF, -_INF], -_INF, where=[False, False]),
)


def worst_errors(api: object, step: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """The worst error in ULP over all `CASES`, by function and dtype.

    `step` is called with a description before each case.
    """
    worst = {function: dict.fromkeys(DTYPES, 0.0) for function in FUNCTIONS}
    rng = np.random.default_rng(0)
    for dtype, shape, (centre, deviation) in CASES:
        step(f"checking {dtype}")
        x = rng.normal(centre, deviation, shape).astype(dtype)
        expected = _exact_results(x)
        for function, transposed in itertools.product(FUNCTIONS, (False, True)):
            result = _call(api, function, x, transposed=transposed)
            errors = _errors(result.ravel(), expected[function], dtype)
            worst[function][dtype] = max(worst[function][dtype], *errors)
    return worst


def wrong_special_values(api: object) -> list[str]:
    """One line for each special value or masked element that is not what the documentation says."""
    wrong = []
    for special, function, dtype in itertools.product(_SPECIAL, FUNCTIONS, DTYPES):
        expected = np.array(getattr(special, function), dtype)
        rounding = ULP_BOUND * np.finfo(dtype).eps
        for transposed in (False, True):
            # Several equal slices, since the one of a vector need not go the way of its remainder.
            x = np.tile(np.array(special.logits, dtype), (19, 1))
            result = _call(api, function, x, transposed=transposed, where=special.where)
            different = [
                values
                for values in result
                if values.shape != expected.shape
                or not np.allclose(values, expected, rtol=rounding, atol=0, equal_nan=True)
            ]
            if different:
                wrong.append(
                    f"{function} of {special.logits}"
                    + (f" where {special.where}" if special.where else "")
                    + f" ({dtype}, {'strided' if transposed else 'contiguous'} axis)"
                    + f" is {different[0].tolist()}, not {expected.tolist()}"
                )
    return wrong


def _call(
    api: object, function: str, x: Any, *, transposed: bool, where: list[bool] | None = None
) -> Any:
    """`function` along the last axis of `x`, or the same with that axis strided in memory."""
    options = {} if where is None else {"where": np.broadcast_to(where, x.shape)}
    if not transposed:
        return getattr(api, function)(x, axis=1, **options)
    options = {name: np.ascontiguousarray(mask.T) for name, mask in options.items()}
    return getattr(api, function)(np.ascontiguousarray(x.T), axis=0, **options).T


def _exact_results(x: Any) -> dict[str, list[Decimal]]:
    """All three functions of the rows of `x`, flattened, right to at least 25 digits."""
    results: dict[str, list[Decimal]] = {function: [] for function in FUNCTIONS}
    with localcontext(Context(prec=50)):
        for row in x.tolist():
            logits = [Decimal(value) for value in row]
            largest = max(logits)
            terms = [(value - largest).exp() for value in logits]
            # The largest term is 1: kept out of the sum, it does not swallow tiny others.
            others = terms.copy()
            others.remove(Decimal(1))
            rest = sum(others, Decimal(0))
            # log1p(rest), by its series where 1 + rest would lose more than half the digits.
            log_sum = (1 + rest).ln() if rest > Decimal("1e-25") else rest - rest * rest / 2
            results["softmax"] += [term / (1 + rest) for term in terms]
            results["log_softmax"] += [value - largest - log_sum for value in logits]
            results["logsumexp"].append(largest + log_sum)
    return results


def _errors(results: Any, expected: Iterable[Decimal], dtype: str) -> list[float]:
    """Distance of each result from the exact value, in ULP of the exact value."""
    with localcontext(Context(prec=50)):
        return [
            float(abs(Decimal(result) - exact) / _ulp(exact, dtype))
            if math.isfinite(result)
            else _INF
            for result, exact in zip(results.tolist(), expected, strict=True)
        ]


def _ulp(exact: Decimal, dtype: str) -> Decimal:
    """Spacing of `dtype` in the binade of `exact`; that of the denormals below the normal range."""
    magnitude = abs(float(exact))
    if Decimal(magnitude) > abs(exact):  # rounding up may have left the binade
        magnitude = math.nextafter(magnitude, 0.0)
    limits = np.finfo(dtype)
    coarser = 2.0 ** (np.finfo(np.float64).nmant - limits.nmant)
    return Decimal(max(math.ulp(magnitude) * coarser, float(limits.smallest_subnormal)))
