"""Softmax and log-softmax of complex numbers, behind the interface of the kernels.

The formulas are those of the real functions, and nothing is done for the last digits: a sum of
complex exponentials may cancel, so that no bound on the error could be kept.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@np.errstate(all="ignore")
def softmax(
    x: Array,
    out: Array,
    temperature: NDArray[np.float64] | None,
    where: NDArray[np.bool_] | None,
) -> None:
    """Write softmax(x / temperature) over axis 1 to `out`; masked elements are 0."""
    x, peak = _with_peak(x, where)
    terms = np.exp(_tempered(x - peak, temperature))
    np.divide(terms, terms.sum(axis=1, keepdims=True), out=out, casting="same_kind")
    if where is not None:
        np.copyto(out, 0, where=~where)


@np.errstate(all="ignore")
def log_softmax(
    x: Array,
    out: Array,
    temperature: NDArray[np.float64] | None,
    where: NDArray[np.bool_] | None,
) -> None:
    """Write log(softmax(x / temperature)) over axis 1 to `out`; masked elements are -inf."""
    x, peak = _with_peak(x, where)
    np.copyto(peak, 0, where=~np.isfinite(peak))
    shifted = _tempered(x - peak, temperature)
    log_sum = np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    np.subtract(shifted, log_sum, out=out, casting="same_kind")
    if where is not None:
        np.copyto(out, -np.inf, where=~where)


def _with_peak(x: Array, where: NDArray[np.bool_] | None) -> tuple[Array, Array]:
    """`x` in double precision or more, without masked elements, and its maxima over axis 1."""
    x = x.astype(np.promote_types(x.dtype, np.complex128))
    if where is not None:
        x = np.where(where, x, -np.inf)
    return x, x.max(axis=1, keepdims=True, initial=-np.inf)


def _tempered(shifted: Array, temperature: NDArray[np.float64] | None) -> Array:
    return shifted if temperature is None else shifted / temperature[:, np.newaxis]
