"""The ways in which the same values can lie in memory.

`ARRANGEMENTS` place slices, given as the rows of a matrix, along some axis of an array;
`LAYOUTS` give a copy of an array in another memory layout.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np


class Arrangement(NamedTuple):
    axis: int
    place: Callable[[np.ndarray], np.ndarray]
    """From rows to the array whose slices along `axis` they are."""

    def rows(self, a: np.ndarray) -> np.ndarray:
        """The inverse of `place`."""
        a = np.moveaxis(a, self.axis, -1)
        return a.reshape(math.prod(a.shape[:-1]), a.shape[-1])


def _middle(rows: np.ndarray) -> np.ndarray:
    slices, length = rows.shape
    outer = 2 if slices % 2 == 0 else 1
    return np.ascontiguousarray(np.moveaxis(rows.reshape(outer, slices // outer, length), -1, 1))


def _padded(rows: np.ndarray) -> np.ndarray:
    wide = np.full((rows.shape[0], rows.shape[1] + 3), np.nan, rows.dtype)
    wide[:, 1:-2] = rows
    return wide[:, 1:-2]


ARRANGEMENTS = {
    "rows": Arrangement(-1, np.ascontiguousarray),
    "rows of a wider array": Arrangement(-1, _padded),
    "columns": Arrangement(0, lambda rows: np.ascontiguousarray(rows.T)),
    "middle axis": Arrangement(1, _middle),
}


def _every_other(a: np.ndarray) -> np.ndarray:
    spread = np.zeros([2 * n for n in a.shape], a.dtype)
    view = spread[(*[slice(None, None, 2)] * a.ndim, ...)]
    view[...] = a
    return view


def _backwards(a: np.ndarray) -> np.ndarray:
    flip = (*[slice(None, None, -1)] * a.ndim, ...)
    return a[flip].copy()[flip]


def _first_axis_last(a: np.ndarray) -> np.ndarray:
    if a.ndim < 2:
        return a.copy()
    return np.moveaxis(np.ascontiguousarray(np.moveaxis(a, 0, -1)), -1, 0)


def _inside_a_wider_array(a: np.ndarray) -> np.ndarray:
    wide = np.zeros([n + 3 for n in a.shape], a.dtype)
    view = wide[(*[slice(1, -2)] * a.ndim, ...)]
    view[...] = a
    return view


def _byte_swapped(a: np.ndarray) -> np.ndarray:
    return a.astype(a.dtype.newbyteorder("S"))


def _unaligned(a: np.ndarray) -> np.ndarray:
    buffer = np.zeros(a.nbytes + 1, np.uint8)
    view = buffer[1:].view(a.dtype).reshape(a.shape)
    view[...] = a
    return view


def _read_only(a: np.ndarray) -> np.ndarray:
    a = a.copy()
    a.flags.writeable = False
    return a


def _repeated_along_the_first_axis(a: np.ndarray) -> np.ndarray:
    """Of other values, and the only layout of which that is so."""
    return np.broadcast_to(a[:1], a.shape) if a.ndim else a.copy()


LAYOUTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "C": lambda a: a.copy(order="C"),
    "Fortran": lambda a: a.copy(order="F"),
    "first axis last": _first_axis_last,
    "every other element": _every_other,
    "backwards": _backwards,
    "inside a wider array": _inside_a_wider_array,
    "byte-swapped": _byte_swapped,
    "unaligned": _unaligned,
    "read-only": _read_only,
    "broadcast": _repeated_along_the_first_axis,
}
