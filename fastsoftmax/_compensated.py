"""Arithmetic in pairs: a value is carried as head + tail, with what the head's rounding left over.

The operations are elementwise and work in any binary floating dtype. Where the head is infinite or
NaN the tail is zero. The ideas are in T. J. Dekker, "A floating-point technique for extending the
available precision", Numer. Math. 18 (1971), and in D. E. Knuth, TAOCP vol. 2, section 4.2.2.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def difference(a: Array, b: Array) -> tuple[Array, Array]:
    """a - b, exactly."""
    head = a - b
    part = head - a
    tail = head - part
    np.subtract(a, tail, out=tail)
    part += b
    tail -= part
    np.copyto(tail, 0, where=np.isnan(tail))
    return head, tail


def total(terms: Array, tails: Array | None = None) -> tuple[Array, Array]:
    """The sum over axis 1 of terms + tails, to about twice the digits of the dtype."""
    tail = np.zeros_like(terms) if tails is None else tails
    tail = tail.sum(axis=1, keepdims=True)
    while terms.shape[1] > 1:
        half = terms.shape[1] // 2
        head, errors = difference(terms[:, :half], -terms[:, -half:])
        tail += errors.sum(axis=1, keepdims=True)
        terms = np.concatenate((head, terms[:, half:-half]), axis=1)
    return terms.sum(axis=1, keepdims=True), tail


def product(a: Array, b: Array) -> tuple[Array, Array]:
    """a * b, exactly, where the product of the smallest halves does not underflow."""
    head = a * b
    a_upper, b_upper = _upper_half(a), _upper_half(b)
    a_lower, b_lower = a - a_upper, b - b_upper
    tail = a_lower * b_lower - (
        ((head - a_upper * b_upper) - a_lower * b_upper) - a_upper * b_lower
    )
    # An infinite factor has no halves.
    np.copyto(tail, 0, where=~np.isfinite(tail))
    return head, tail


def quotient(head: Array, tail: Array, divisor: Array) -> tuple[Array, Array]:
    """(head + tail) / divisor, to about twice the digits of the dtype.

    The leading half of the quotient's digits is split off first: its products with the halves of
    the divisor are exact, so that the remainder is known to full precision.
    """
    rounded = head / divisor
    upper = _upper_half(rounded)
    divisor_upper = _upper_half(divisor)
    rest = head - upper * divisor_upper
    rest -= upper * (divisor - divisor_upper)
    rest += tail
    rest /= divisor
    result = upper + rest
    rest -= result - upper
    # An infinite quotient has no halves, and one near the largest number overflows in the split.
    is_undefined = ~np.isfinite(rest)
    np.copyto(result, rounded, where=is_undefined)
    np.copyto(rest, 0, where=is_undefined)
    return result, rest


def _upper_half(a: Array) -> Array:
    """`a` rounded to half of its digits (Veltkamp's splitting)."""
    digits = np.finfo(a.dtype).nmant + 1
    scaled = a * (2.0 ** ((digits + 1) // 2) + 1.0)
    return scaled - (scaled - a)
