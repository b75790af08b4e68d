"""Log-sum-exp of terms with a sign or a phase: weighted and complex sums.

Kernels make the weighted sums of moderate numbers, in float64 if they may cancel; this module makes
all others, in NumPy.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsoftmax import _compensated

Array = NDArray[Any]

UNKNOWN_SIGN = 2
"""What a kernel gives as the sign of a sum that it leaves to `logsumexp`: FSM_UNKNOWN_SIGN."""

_MODERATE = 256
"""Exponents of weights which leave exponentials, and any number of their products, in range."""


@np.errstate(all="ignore")
def logsumexp_by_kernel(
    kernel: Callable[[Array, Array, Array, NDArray[np.intp]], None], x: Array, weights: Array
) -> tuple[Array, Array]:
    """log|S| and sign(S) of S = sum(weights * exp(x)) over axis 1 of (outer, length, inner).

    The arrays have one dtype, float32 or float64; the results are (outer, inner). What the kernel
    leaves in float32 is offered to it in float64.
    """
    outer, _, inner = x.shape
    log_sum, kernel_sign = np.empty((outer, inner), x.dtype), np.empty((outer, inner), np.intp)
    kernel(x, weights, log_sum, kernel_sign)
    sign = kernel_sign.astype(x.dtype)
    is_left = kernel_sign == UNKNOWN_SIGN
    if is_left.any():
        left = [array.transpose(0, 2, 1)[is_left].astype(np.float64) for array in (x, weights)]
        if x.dtype == np.float64:
            values, totals = _log_and_sum(left[0], left[1])
            signs = np.sign(totals)
        else:
            rows = [array[:, :, np.newaxis] for array in left]
            values, signs = logsumexp_by_kernel(kernel, rows[0], rows[1])
        log_sum[is_left], sign[is_left] = values[:, 0], signs[:, 0]
    return log_sum, sign


@np.errstate(all="ignore")
def logsumexp(a: Array, weights: Array | None, return_sign: bool) -> tuple[Array, Array | None]:
    """log S of the sum S = sum(weights * exp(a)) over the last axis; or log|S| and S/|S|.

    The reduced axis stays, with size one. An element whose weight is zero counts for nothing, even
    if it is infinite or NaN. Both arrays have one shape, and one dtype of double precision or more.
    """
    log_sum, total = _log_and_sum(a, weights)
    if return_sign:
        return log_sum, np.sign(total)
    if total.dtype.kind == "c":
        result = np.empty_like(total)
        result.real, result.imag = log_sum, np.angle(total)
        return result, None
    return np.where(total < 0, np.nan, log_sum), None


def _log_and_sum(a: Array, weights: Array | None) -> tuple[Array, Array]:
    """log|S|, and S but for a positive factor."""
    if weights is not None:
        a, weights = _with_moderate_weights(np.where(weights == 0, -np.inf, a), weights)
    peak = a.real.max(axis=-1, keepdims=True, initial=-np.inf)
    is_finite = np.isfinite(peak)
    shift = np.where(is_finite, peak, 0)
    # Beside an infinite term the finite ones do not matter, only must not overflow.
    a = np.where(is_finite | ~np.isfinite(a), a, 0)
    terms = _exp_difference(a, shift)
    if weights is not None:
        # An exponential beside an infinite weight must not be 0 only because others are larger.
        np.copyto(terms, 1, where=np.isinf(weights) & (terms == 0) & (a.real > -np.inf))
        terms *= weights
    total = terms.sum(axis=-1, keepdims=True)
    log_sum = np.log(np.abs(total))
    if a.shape[-1] > 0:
        # Where one term dominates, the logarithm of the total would lose the others.
        lead = np.abs(terms).argmax(axis=-1, keepdims=True)
        log_lead = np.take_along_axis(a.real - shift, lead, axis=-1)
        if weights is not None:
            log_lead += np.log(np.abs(np.take_along_axis(weights, lead, axis=-1)))
        ratio = _rest_over_lead(terms, lead)
        np.copyto(log_sum, log_lead + _log_abs1p(ratio), where=np.abs(ratio) < 0.5)
    log_sum += shift
    return log_sum, total


def _with_moderate_weights(a: Array, weights: Array) -> tuple[Array, Array]:
    """The same terms: powers of two that could make their sum overflow go to the exponents."""
    magnitude = np.maximum(np.abs(weights.real), np.abs(weights.imag))
    exponent = np.frexp(magnitude)[1]
    excess = exponent - np.clip(exponent, -_MODERATE, _MODERATE)
    is_extreme = (excess != 0) & np.isfinite(magnitude)
    factor = np.ldexp(magnitude.dtype.type(1), -excess)
    weights = np.multiply(weights, factor, out=weights.copy(), where=is_extreme)
    a = np.add(a, excess * np.log(magnitude.dtype.type(2)), out=a.copy(), where=is_extreme)
    return a, weights


def _exp_difference(a: Array, shift: Array) -> Array:
    """exp(a - shift)"""
    if a.dtype.kind == "c":
        return np.asarray(np.exp(a - shift))
    head, tail = _compensated.difference(a, shift)
    terms = np.exp(head)
    # A term that is infinite has no tail, and is left alone.
    terms += np.multiply(terms, tail, out=tail, where=tail != 0)
    return np.asarray(terms)


def _rest_over_lead(terms: Array, lead: NDArray[np.intp]) -> Array:
    """The sum of all terms but the one at index `lead`, divided by it; overwrites that one."""
    leading = np.take_along_axis(terms, lead, axis=-1)
    np.put_along_axis(terms, lead, 0, axis=-1)
    return np.asarray(terms.sum(axis=-1, keepdims=True) / leading)


def _log_abs1p(z: Array) -> Array:
    """log|1 + z|, to full relative precision near 0."""
    if z.dtype.kind == "c":
        # |1 + z|^2 = 1 + Re z (2 + Re z) + (Im z)^2
        return np.asarray(np.log1p(z.real * (2 + z.real) + z.imag**2) / 2)
    return np.asarray(np.log1p(z))
