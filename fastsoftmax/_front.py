"""What the public functions have in common: the kernels of a backend, and places for results."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fastsoftmax import _arguments, _backend, _fallback
from fastsoftmax._layout import Layout

Array = NDArray[Any]


class Front:
    """Functions on one backend."""

    def __init__(self, kernels: _backend.Kernels) -> None:
        self._kernels = kernels
        self._compiled = frozenset(kernels.dtypes)
        self._fallback = _FALLBACK

    def _kernels_for(
        self, work: np.dtype[Any], temperature: NDArray[np.float64] | None = None
    ) -> _backend.Kernels:
        """The kernels that can work in this dtype and with these temperatures."""
        # The name of the type, as that of the dtype takes NumPy a microsecond.
        is_compiled = work.type.__name__ in self._compiled and _is_moderate(temperature)
        return self._kernels if is_compiled else self._fallback

    def _work_dtype(
        self,
        natural: np.dtype[Any],
        result: np.dtype[Any],
        temperature: NDArray[np.float64] | None = None,
    ) -> np.dtype[Any]:
        """The dtype of the arrays that a kernel takes to turn `natural` into `result`."""
        if natural == result and natural.itemsize == 2:
            native = natural.newbyteorder("=")
            if native.type.__name__ in self._compiled and _is_moderate(temperature):
                return native
        return _arguments.work_dtype(natural, result)


class Place:
    """Where a kernel writes: the array for a result itself, or a scratch array that it can take."""

    def __init__(self, result: Array, axes: tuple[int, ...], work: np.dtype[Any]) -> None:
        self.layout = Layout(result, axes)
        self._result = result
        self._work = work
        view = self.layout.view(result, work)
        if view is None:
            self._array = self.layout.scratch(work)
            self.target = self.layout.elements(self._array)
        else:
            self._array = result
            self.target = view

    def source(self, array: Array, *, copy_to_target: bool = False) -> Array:
        """`array` as a kernel takes it that writes to `target`.

        A copy, if need be, is a new array or, with `copy_to_target`, in the target's memory.
        """
        is_apart = array is self._result or not np.may_share_memory(array, self._result)
        view = self.layout.view(array, self._work) if is_apart else None
        if view is not None:
            return view
        # NumPy sees to it that nothing is overwritten before it is read, but in one dtype only.
        is_safe = array.dtype == self._array.dtype or not np.may_share_memory(array, self._array)
        if copy_to_target and is_safe:
            convert(array, self._array)
            return self.target
        return copied(array, self.layout, self._work)

    def deliver(self) -> None:
        """Bring what the kernel wrote to the array for the result."""
        if self._array is not self._result:
            rounded(self._array, self._result.dtype, self._result)


AT_A_TIME = 1 << 20
"""Elements to convert at a time: as many as several threads work on."""


def parts(
    array: Array, result: Array | None, axes: tuple[int, ...], work: np.dtype[Any]
) -> list[tuple[Any, ...]]:
    """What to work on at a time, as indices: whole slices, for copies of them to stay small.

    All at once, if kernels take both arrays as they are, or if the one overlaps the other.
    """
    kept = [i for i in range(array.ndim) if i not in axes and array.shape[i] > 1]
    if array.size <= AT_A_TIME or not kept:
        return [(...,)]
    arrays = [array] if result is None else [array, result]
    is_copied = any(Layout(a, axes).view(a, work) is None for a in arrays)
    if not is_copied or (result is not None and np.may_share_memory(array, result)):
        return [(...,)]
    axis = max(kept, key=lambda i: abs(arrays[-1].strides[i]))
    step = max(1, AT_A_TIME * array.shape[axis] // array.size)
    before = (slice(None),) * axis
    return [
        (*before, slice(begin, begin + step), ...) for begin in range(0, array.shape[axis], step)
    ]


def as_source(array: Array, layout: Layout, work: np.dtype[Any]) -> Array:
    """`array` as a kernel takes it that writes elsewhere."""
    view = layout.view(array, work)
    return copied(array, layout, work) if view is None else view


def copied(array: Array, layout: Layout, work: np.dtype[Any]) -> Array:
    scratch = layout.scratch(work)
    convert(array, scratch)
    return layout.elements(scratch)


_FALLBACK = _fallback.Kernels()


@np.errstate(all="ignore")
def convert(source: Array, target: Array) -> None:
    """Copy `source` to `target`, rounded to its dtype."""
    if target.dtype.itemsize == 2 and source.dtype.itemsize > 4:
        source = _to_float32_for_rounding(source)
    kernels = _backend.ACTIVE.kernels
    if not (kernels.convert(source, target) or _FALLBACK.convert(source, target)):
        np.copyto(target, source, casting="unsafe")


def _to_float32_for_rounding(wide: Array) -> Array:
    """In float32, such that rounding the result gives what rounding `wide` would.

    What float32 does not hold is rounded to the neighbour whose last bit is 1, which never lies
    halfway between numbers of 16 bits (S. Boldo and G. Melquiond, "Emulation of a FMA and correctly
    rounded sums: proved algorithms using rounding to odd", IEEE Trans. Comput. 57(4), 2008).
    """
    narrow = wide.astype(np.float32)
    is_even = narrow.view(np.uint32) % 2 == 0
    odd = np.nextafter(narrow, np.where(wide > narrow, np.float32(np.inf), np.float32(-np.inf)))
    np.copyto(narrow, odd, where=is_even & (narrow != wide) & ~np.isnan(wide))
    return narrow


def rounded(values: Array, dtype: np.dtype[Any], out: Array | None) -> Any:
    """`values` rounded to `dtype`: in `out`, or on their own, and then a scalar if 0-d."""
    if out is None and values.dtype == dtype:
        return array_or_scalar(values)
    result = np.empty_like(values, dtype) if out is None else out
    convert(values, np.asarray(result))
    return array_or_scalar(result) if out is None else out


def array_or_scalar(result: Array) -> Any:
    return result if result.ndim else result[()]


def reduced_shape(
    shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool = False
) -> tuple[int, ...]:
    return tuple([1 if i in axes else n for i, n in enumerate(shape) if keepdims or i not in axes])


def _is_moderate(temperature: NDArray[np.float64] | None) -> bool:
    """Whether the compiled kernels take these temperatures: products with them stay normal."""
    if temperature is None:
        return True
    is_moderate = (temperature >= 2.0**-60) & (temperature <= 2.0**60)
    return int(np.count_nonzero(is_moderate)) == is_moderate.size
