"""The kernels in NumPy: for where the compiled ones do not exist, and for what they do not cover.

Every result is within 3 ULP. float32 is computed in float64 and rounded once. In float64 and
longdouble, where there is nothing wider, the rounding errors that would be magnified are carried
along as a second number: that of x - max, which the exponential would multiply by |x - max|, and
that of the division by the temperature.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsoftmax import _compensated, _complex

Array = NDArray[Any]

# Elements worked on at a time: enough that NumPy's cost per call does not count, few enough that
# the temporaries stay in the cache.
_BLOCK = 1 << 15
# Columns of a block, if there are that many: narrower ones would touch parts of cache lines.
_COLUMNS = 16


class Kernels:
    """The interface of `_core.Kernels`, and beyond it longdouble, complex, any temperature."""

    def __init__(self, name: str = "numpy") -> None:
        self.name = name

    @np.errstate(all="ignore")
    def softmax(
        self,
        x: Array,
        out: Array,
        temperature: NDArray[np.float64] | None,
        where: NDArray[np.bool_] | None,
    ) -> None:
        """Write softmax(x / temperature) over axis 1 to `out`; masked elements are 0."""
        if x.dtype.kind == "c":
            return _complex.softmax(x, out, temperature, where)
        for block, _, head, tail in _exponents(x, temperature, where):
            terms = np.exp(head)
            if tail is None:
                np.divide(
                    terms, terms.sum(axis=1, keepdims=True), out=out[block], casting="same_kind"
                )
            else:
                whole, fraction = _sum(terms, tail)
                total = whole + fraction
                terms /= total
                # What the exponent and the sum were rounded by, as a relative correction.
                tail -= (fraction - (total - whole)) / total
                tail *= terms
                np.add(terms, tail, out=out[block])
        if where is not None:
            np.copyto(out, 0, where=~where)

    @np.errstate(all="ignore")
    def log_softmax(
        self,
        x: Array,
        out: Array,
        temperature: NDArray[np.float64] | None,
        where: NDArray[np.bool_] | None,
    ) -> None:
        """Write log(softmax(x / temperature)) over axis 1 to `out`; masked elements are -inf."""
        if x.dtype.kind == "c":
            return _complex.log_softmax(x, out, temperature, where)
        for block, peak, head, tail in _exponents(x, temperature, where):
            log_total = _log_sum(head, tail)
            # Beside an infinity every finite element has the logarithm -inf, as head says.
            np.copyto(log_total, 0, where=np.isinf(peak))
            if tail is None:
                np.subtract(head, log_total, out=out[block], casting="same_kind")
            else:
                tail -= log_total
                np.add(head, tail, out=out[block])
        if where is not None:
            np.copyto(out, -np.inf, where=~where)

    @np.errstate(all="ignore")
    def logsumexp(self, x: Array, out: Array, where: NDArray[np.bool_] | None) -> None:
        """Write log(sum(exp(x))) over axis 1 to `out`; masked elements count for nothing."""
        if x.shape[1] == 0:
            out.fill(-np.inf)
        for block, peak, head, tail in _exponents(x, None, where):
            log_total = _log_sum(head, tail)
            np.copyto(log_total, 0, where=np.isinf(peak))
            np.add(peak, log_total, out=out[:, np.newaxis][block], casting="same_kind")

    # There is no quicker way than the general one here.

    def softmax_lane(self, x: object, axis: object, out: object) -> None:
        return None

    def log_softmax_lane(self, x: object, axis: object, out: object) -> None:
        return None

    def logsumexp_lane(self, x: object, axis: object) -> None:
        return None


def _exponents(
    x: Array, temperature: NDArray[np.float64] | None, where: NDArray[np.bool_] | None
) -> Iterator[tuple[tuple[slice, ...], Array, Array, Array | None]]:
    """Go through x in blocks: where one is, its maxima, and (x - maximum) / temperature in it.

    The latter comes as head + tail, or without a tail where the head is exact enough.
    """
    for block in _blocks(x.shape):
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


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
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


def _sum(terms: Array, corrections: Array | None) -> tuple[Array, Array]:
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
    return whole, _pairwise_sum(lower)


def _pairwise_sum(terms: Array) -> Array:
    """Sum over axis 1 by halving, in place; NumPy would add the rows of a block one by one."""
    length = terms.shape[1]
    while length > 8:
        half = length // 2
        terms[:, :half] += terms[:, length - half : length]
        length -= half
    total: Array = terms[:, :length].sum(axis=1, keepdims=True)
    return total


def _log_sum(head: Array, tail: Array | None) -> Array:
    """log of the sum of exp(head + tail) over axis 1, to full relative precision near 0."""
    whole, fraction = _sum(np.exp(head), tail)
    rest = whole - 1
    rest += fraction
    is_tiny = (rest > 0) & (rest < 2.0**20 * np.finfo(rest.dtype).smallest_normal)
    if is_tiny.any():
        # Among its terms are denormal ones, which have lost digits: sum them enlarged by e^64.
        terms = np.where(head < 0, np.exp(head + 64), 0)
        if tail is not None:
            terms += terms * tail
        np.copyto(rest, _pairwise_sum(terms) * np.exp(head.dtype.type(-64)), where=is_tiny)
    log_sum: Array = np.log1p(rest)
    return log_sum
