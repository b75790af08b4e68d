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
        for block, slices in _blocks(x.shape):
            _, head, tail = _exponents(x, block, slices, temperature, where)
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
        for block, slices in _blocks(x.shape):
            peak, head, tail = _exponents(x, block, slices, temperature, where)
            log_total = _log_sum(np.exp(head), tail)
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
        for block, slices in _blocks(x.shape):
            peak, head, tail = _exponents(x, block, slices, None, where)
            log_total = _log_sum(np.exp(head), tail)
            np.copyto(log_total, 0, where=np.isinf(peak))
            np.add(peak, log_total, out=out[slices][:, None], casting="same_kind")

    # There is no quicker way than the general one here.

    def softmax_lane(self, x: object, axis: object, out: object) -> None:
        return None

    def log_softmax_lane(self, x: object, axis: object, out: object) -> None:
        return None

    def logsumexp_lane(self, x: object, axis: object) -> None:
        return None


def _blocks(shape: tuple[int, ...]) -> Iterator[tuple[tuple[slice, ...], tuple[slice, slice]]]:
    """Cut (outer, length, inner) into blocks of whole slices: their elements, their slices."""
    if 0 in shape:
        return
    outer, length, inner = shape
    columns = min(inner, max(_COLUMNS, _BLOCK // length))
    rows = max(1, _BLOCK // (length * columns))
    for i in range(0, outer, rows):
        for j in range(0, inner, columns):
            of_outer, of_inner = slice(i, i + rows), slice(j, j + columns)
            yield (of_outer, slice(None), of_inner), (of_outer, of_inner)


def _exponents(
    x: Array,
    block: tuple[slice, ...],
    slices: tuple[slice, slice],
    temperature: NDArray[np.float64] | None,
    where: NDArray[np.bool_] | None,
) -> tuple[Array, Array, Array | None]:
    """The maxima, and (x - maximum) / temperature as head + tail; no tail if head is enough."""
    x = x[block]
    if where is not None:
        x = np.where(where[block], x, -np.inf)
    is_widened = x.dtype == np.float32
    if is_widened:
        x = x.astype(np.float64)
    peak = x.max(axis=1, keepdims=True)
    divisor = None
    if temperature is not None:
        divisor = temperature[slices][:, None].astype(x.dtype)
    if is_widened:
        x -= peak
        if divisor is not None:
            x /= divisor
        return peak, x, None
    if divisor is None:
        return peak, *_compensated.difference(x, peak)
    return peak, *_tempered_difference(x, peak, divisor)


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
    return terms[:, :length].sum(axis=1, keepdims=True)


def _log_sum(terms: Array, corrections: Array | None) -> Array:
    """log of that sum, to full relative precision near 0."""
    whole, fraction = _sum(terms, corrections)
    whole -= 1
    whole += fraction
    return np.log1p(whole)
