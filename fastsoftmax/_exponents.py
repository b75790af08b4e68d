"""Exponents in blocks, their exponentials and sums: what the kernels in NumPy are made of.

Exponents come as head + tail, or without a tail where the head is exact enough; total and rest of
their exponentials keep the digits that a sum of rounded numbers would lose.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsoftmax import _compensated

Array = NDArray[Any]

# Elements worked on at a time: enough that NumPy's cost per call does not count, few enough that
# the temporaries stay in the cache.
_BLOCK = 1 << 15
# Columns of a block, if there are that many: narrower ones would touch parts of cache lines.
_COLUMNS = 16


def exponents(
    x: Array, temperature: NDArray[np.float64] | None, where: NDArray[np.bool_] | None
) -> Iterator[tuple[tuple[slice, ...], Array, Array, Array | None]]:
    """Go through x in blocks: where one is, its maxima, and (x - maximum) / temperature in it.

    The latter comes as head + tail, or without a tail where the head is exact enough.
    """
    for block in blocks(x.shape):
        part = x[block] if where is None else np.where(where[block], x[block], -np.inf)
        divisor = None if temperature is None else temperature[:, np.newaxis][block]
        if x.dtype == np.float32:
            head = part.astype(np.float64)
            peak = head.max(axis=1, keepdims=True)
            head -= peak
            if divisor is not None:
                head /= divisor
            yield block, peak, head, None
        else:
            peak = part.max(axis=1, keepdims=True)
            if divisor is None:
                yield block, peak, *_compensated.difference(part, peak)
            else:
                yield block, peak, *_tempered_difference(part, peak, divisor.astype(x.dtype))


def blocks(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    """Cut (outer, length, inner) into blocks of whole slices."""
    if 0 in shape:
        return
    outer, length, inner = shape
    columns = min(inner, max(_COLUMNS, _BLOCK // length))
    rows = max(1, _BLOCK // (length * columns))
    for i in range(0, outer, rows):
        for j in range(0, inner, columns):
            yield slice(i, i + rows), slice(None), slice(j, j + columns)


def _tempered_difference(x: Array, peak: Array, temperature: Array) -> tuple[Array, Array]:
    """(x - peak) / temperature as head + tail, whatever their magnitudes."""
    # Powers of two bring the temperature near 1. A large one is taken out before the subtraction,
    # which could overflow; a small one after it, for the same reason.
    exponent = np.clip(np.frexp(temperature)[1], -1000, 1000)
    down = np.ldexp(x.dtype.type(1), -np.maximum(exponent, 0))
    up = np.ldexp(x.dtype.type(1), -np.minimum(exponent, 0))
    head, tail = _compensated.difference(x * down, peak * down)
    head *= up
    tail *= up
    return _compensated.quotient(head, tail, np.ldexp(temperature, -exponent))


def total(terms: Array, corrections: Array | None) -> tuple[Array, Array]:
    """Sum terms * (1 + corrections) over axis 1, the terms in [0, 1], as whole + fraction.

    Each term is cut at a place that all share, low enough for the sum of the upper parts to be
    exact in whatever order NumPy adds them. So whole - 1 is the sum without a largest term, 1, and
    terms of any smallness keep their digits in `fraction`.
    """
    length = terms.shape[1]
    # Adding and subtracting this rounds to multiples of its last digit.
    cut = 1.5 * 2.0 ** (length - 1).bit_length()
    upper = terms + cut
    upper -= cut
    whole = upper.sum(axis=1, keepdims=True)
    lower = np.subtract(terms, upper, out=upper)
    if corrections is not None:
        lower += terms * corrections
    return whole, pairwise_sum(lower)


def pairwise_sum(terms: Array) -> Array:
    """Sum over axis 1 by halving, in place; NumPy would add the rows of a block one by one."""
    length = terms.shape[1]
    while length > 8:
        half = length // 2
        terms[:, :half] += terms[:, length - half : length]
        length -= half
    total: Array = terms[:, :length].sum(axis=1, keepdims=True)
    return total


def all_but_one(head: Array, tail: Array | None, whole: Array, fraction: Array) -> Array:
    """`total` without a largest term, 1, to full relative precision near 0."""
    rest = whole - 1
    rest += fraction
    is_tiny = (rest > 0) & (rest < 2.0**20 * np.finfo(rest.dtype).smallest_normal)
    if is_tiny.any():
        # Among its terms are denormal ones, which have lost digits: sum them enlarged by e^64.
        terms = np.where(head < 0, np.exp(head + 64), 0)
        if tail is not None:
            terms += terms * tail
        np.copyto(rest, pairwise_sum(terms) * np.exp(head.dtype.type(-64)), where=is_tiny)
    return rest


def log_sum(peak: Array, head: Array, tail: Array | None) -> Array:
    """log of the sum of exp(head + tail) over axis 1, to full relative precision near 0.

    It is 0 beside an infinity, where every finite element has the logarithm that head says, -inf.
    """
    logarithm: Array = np.log1p(all_but_one(head, tail, *total(np.exp(head), tail)))
    np.copyto(logarithm, 0, where=np.isinf(peak))
    return logarithm


def log_shares(head: Array, tail: Array | None, log_total: Array) -> tuple[Array, Array | None]:
    """head + tail - log_total as a sum of two, the second one, if any, overwriting the tail."""
    if tail is None:
        return head - log_total, None
    tail -= log_total
    return head, tail


def shares(
    terms: Array, tail: Array | None, whole: Array, fraction: Array
) -> tuple[Array, Array | None]:
    """terms * (1 + tail) / (whole + fraction) as a sum of two, which overwrite terms and tail."""
    divisor = whole + fraction
    terms /= divisor
    if tail is not None:
        # What the exponent and the sum were rounded by, as a relative correction.
        tail -= (fraction - (divisor - whole)) / divisor
        tail *= terms
    return terms, tail


def store(values: Array, corrections: Array | None, out: Array) -> None:
    if corrections is None:
        np.copyto(out, values, casting="same_kind")
    else:
        np.add(values, corrections, out=out)
