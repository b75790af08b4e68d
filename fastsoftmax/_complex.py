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
    x = _tempered(x, temperature, where)
    terms = np.exp(x - x.max(axis=1, keepdims=True, initial=-np.inf))
    np.divide(terms, terms.sum(axis=1, keepdims=True), out=out)
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
    x = _tempered(x, temperature, where)
    peak = x.max(axis=1, keepdims=True, initial=-np.inf)
    np.copyto(peak, 0, where=~np.isfinite(peak))
    shifted = x - peak
    np.subtract(shifted, np.log(np.exp(shifted).sum(axis=1, keepdims=True)), out=out)
    if where is not None:
        np.copyto(out, -np.inf, where=~where)


def _tempered(
    x: Array, temperature: NDArray[np.float64] | None, where: NDArray[np.bool_] | None
) -> Array:
    if temperature is not None:
        x = x / temperature[:, None].astype(x.real.dtype)
    if where is not None:
        x = np.where(where, x, -np.inf)
    return x
