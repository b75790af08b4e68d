"""How the axes of an array are laid out for the kernels, as (outer, length, inner)."""

import math
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


class Layout:
    """An order of axes in which those to be reduced come together: outer, reduced, inner.

    It follows the strides of an array: then the reduction reads memory in order, and a kernel
    can work on the array itself, as a 3-D view, wherever each group of axes merges into one.
    """

    def __init__(self, array: NDArray[Any], axes: tuple[int, ...]) -> None:
        size, strides = array.shape, array.strides
        order = list(range(len(size)))
        if 1 in size or not array.flags.c_contiguous:
            # Axes of size one have strides that mean nothing, and are put where they disturb
            # nothing.
            order.sort(key=lambda i: (size[i] != 1, -abs(strides[i])))
        outer: list[int] = []
        reduced: list[int] = []
        inner: list[int] = []
        for i in order:
            if i in axes:
                reduced.append(i)
                outer += inner
                inner = []
            else:
                inner.append(i)
        self._order = (*outer, *reduced, *inner)
        self._shape = size
        self._axes = axes
        self.shape = tuple([math.prod([size[i] for i in g]) for g in (outer, reduced, inner)])

    def view(self, array: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any] | None:
        """`array` as kernels for this dtype take it, in its own memory; None if that cannot be."""
        if array.dtype != dtype or not array.flags.aligned:
            return None
        try:
            view = array.transpose(self._order).reshape(self.shape, copy=False)
        except ValueError:
            return None
        return view if _has_kernel_strides(view) else None

    def scratch(self, dtype: DTypeLike) -> NDArray[Any]:
        """A new array of the same shape, laid out so that `view` succeeds."""
        return self._in_order_of_array(np.empty([self._shape[i] for i in self._order], dtype))

    def elements(self, array: NDArray[Any]) -> NDArray[Any]:
        """`array`, of the full shape, as (outer, length, inner); a copy if need be."""
        return array.transpose(self._order).reshape(self.shape)

    def slices(self, array: NDArray[Any]) -> NDArray[Any]:
        """`array`, whose reduced axes have size one, as (outer, inner); a copy if need be."""
        outer, _, inner = self.shape
        return array.transpose(self._order).reshape(outer, inner)

    def from_slices(self, values: NDArray[Any]) -> NDArray[Any]:
        """The inverse of `slices`, in the memory of `values` if they are contiguous."""
        return self.from_elements(values, 1)

    def from_elements(self, values: NDArray[Any], length: int) -> NDArray[Any]:
        """The inverse of `elements`, where the one reduced axis now has this length."""
        sizes = [length if i in self._axes else self._shape[i] for i in self._order]
        return self._in_order_of_array(values.reshape(sizes))

    def _in_order_of_array(self, transposed: NDArray[Any]) -> NDArray[Any]:
        return transposed.transpose([self._order.index(i) for i in range(len(self._order))])


def _has_kernel_strides(view: NDArray[Any]) -> bool:
    """Whether the innermost axis is contiguous and the others go forward in whole elements."""
    if view.flags.c_contiguous:
        return True
    steps = [stride for n, stride in zip(view.shape, view.strides, strict=True) if n > 1]
    itemsize = view.itemsize
    return steps[-1] == itemsize and all(s >= 0 and s % itemsize == 0 for s in steps)
