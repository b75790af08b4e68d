"""What the functions accept: each argument is checked and brought to its one form here."""

import math
import operator
from typing import Any

import numpy as np
from numpy.lib.array_utils import normalize_axis_index, normalize_axis_tuple
from numpy.typing import ArrayLike, DTypeLike, NDArray

DType = np.dtype[Any]


def as_array(name: str, value: object) -> NDArray[Any]:
    """The argument called `name` as a plain ndarray."""
    if isinstance(value, np.ma.MaskedArray):
        raise TypeError(
            f"{name} is a numpy.ma.MaskedArray, need an array, as its mask would be ignored: "
            f"pass {name}.data, with where= if the function has it, or {name}.filled(...)"
        )
    if isinstance(value, np.matrix):
        raise TypeError(f"{name} is a numpy.matrix, need an array: pass numpy.asarray({name})")
    try:
        return np.asarray(value)
    except ValueError as error:  # such as a list of rows that differ in length
        raise ValueError(f"{name}: {error}") from None


def as_axes(axis: Any, ndim: int) -> tuple[int, ...]:
    """The axes to reduce, counted from the front; None stands for all of them."""
    if axis is None:
        return tuple(range(ndim))
    try:
        if type(axis) is int and ndim:
            return (normalize_axis_index(axis, ndim),)
        axes: tuple[int, ...] = normalize_axis_tuple(axis, max(ndim, 1))
    except OverflowError:
        raise _axis_error(axis, ndim) from None
    except TypeError:
        raise TypeError(
            f"axis must be an integer, a tuple of integers or None, got {axis!r}"
        ) from None
    return axes if ndim else ()  # NumPy, too, lets a scalar have an axis 0


def as_axis(axis: Any, ndim: int) -> int:
    """The one axis along which the classes lie, counted from the front."""
    place = as_integer("axis", axis)
    try:
        return normalize_axis_index(place, ndim)
    except OverflowError:
        raise _axis_error(place, ndim) from None


def _axis_error(axis: Any, ndim: int) -> np.exceptions.AxisError:
    return np.exceptions.AxisError(f"axis {axis} is out of bounds for array of dimension {ndim}")


def float_dtype(name: str, dtype: DType) -> DType:
    """The native floating or complex dtype in which an argument of this dtype takes part."""
    natural = _natural_dtype(dtype)
    if natural is None:
        raise TypeError(f"{name} has dtype {dtype}, need real or complex numbers")
    return natural


def real_dtype(name: str, dtype: DType) -> DType:
    """`float_dtype` for a function that complex numbers do not have."""
    natural = _natural_dtype(dtype)
    if natural is None or natural.kind == "c":
        raise TypeError(f"{name} has dtype {dtype}, need real numbers")
    return natural


def _natural_dtype(dtype: DType) -> DType | None:
    # NumPy's own types only; the small floats of other packages call themselves kind "f" as well.
    if issubclass(dtype.type, np.inexact) or _is_bfloat16(dtype):
        return dtype if dtype.isnative else dtype.newbyteorder("=")
    if dtype.kind in "biu" and issubclass(dtype.type, (np.integer, np.bool_)):
        return np.dtype(np.float64)
    return None


def common_real_dtype(first: DType, second: DType) -> DType:
    """The dtype of a function of two arrays of these real dtypes."""
    try:
        return real_dtype("", np.result_type(first, second))
    except TypeError:
        # bfloat16 has no common dtype with float16, but float32 has.
        return np.promote_types(_at_least_float32(first), _at_least_float32(second))


def is_floating(dtype: DType) -> bool:
    return issubclass(dtype.type, np.floating) or _is_bfloat16(dtype)


def as_terms(a: ArrayLike, b: ArrayLike | None) -> tuple[NDArray[Any], NDArray[Any] | None, DType]:
    """The exponents and their weights in one shape, and the dtype in which they come together."""
    exponents = as_array("a", a)
    if b is None:
        return exponents, None, float_dtype("a", exponents.dtype)
    weights = as_array("b", b)
    dtype = _common_dtype((a, b), (exponents, weights))
    try:
        exponents, weights = np.broadcast_arrays(exponents, weights)
    except ValueError:
        raise ValueError(
            f"a and b have shapes {exponents.shape} and {weights.shape}, "
            "which do not broadcast together"
        ) from None
    return exponents, weights, dtype


def _common_dtype(given: tuple[Any, Any], arrays: tuple[NDArray[Any], NDArray[Any]]) -> DType:
    """The dtype of a function of `a` and `b`; Python numbers take part as NumPy's rules say."""
    floats = [float_dtype(name, x.dtype) for name, x in zip("ab", arrays, strict=True)]
    kinds = [
        value if type(value) in (bool, int, float, complex) else array.dtype
        for value, array in zip(given, arrays, strict=True)
    ]
    try:
        return float_dtype("a", np.result_type(*kinds))
    except TypeError:
        # bfloat16 has no common dtype with float16 and the wider integers, but float32 has.
        return np.promote_types(*map(_at_least_float32, floats))


def result_dtype(natural: DType, dtype: DTypeLike | None) -> DType:
    """The dtype of the result: `dtype` if it is given, else the input's `natural` one."""
    if dtype is None:
        return natural
    try:
        asked = np.dtype(dtype)
    except TypeError as error:
        raise TypeError(f"dtype: {error}") from None
    is_inexact = issubclass(asked.type, np.inexact) or _is_bfloat16(asked)
    if not is_inexact or (asked.kind == "c") != (natural.kind == "c"):
        wanted = "complex" if natural.kind == "c" else "floating"
        raise TypeError(f"dtype must be {wanted} for this input, got {asked}")
    return asked.newbyteorder("=")


def work_dtype(natural: DType, result: DType) -> DType:
    """The dtype to compute in: the wider of the two, and float32 at least."""
    if natural == result:
        return _at_least_float32(natural)
    return np.promote_types(_at_least_float32(natural), _at_least_float32(result))


def _at_least_float32(dtype: DType) -> DType:
    is_half = dtype.type is np.float16 or _is_bfloat16(dtype)
    return np.dtype(np.float32) if is_half else dtype


def _is_bfloat16(dtype: DType) -> bool:
    # The type is another package's (ml_dtypes), which only those import who use it.
    return dtype.type.__name__ == "bfloat16"


def as_mask(where: ArrayLike | None, shape: tuple[int, ...]) -> NDArray[np.bool_] | None:
    """`where` broadcast to the shape of the input."""
    if where is None:
        return None
    mask = as_array("where", where)
    if mask.dtype != np.bool_:
        raise TypeError(f"where has dtype {mask.dtype}, need bool")
    return _broadcast("where", mask, shape)


def as_temperature(
    temperature: ArrayLike, shape: tuple[int, ...], axes: tuple[int, ...]
) -> NDArray[np.float64] | None:
    """One temperature per slice, broadcast to `shape` with the reduced `axes` of size one.

    None stands for the temperature 1, which needs no work.
    """
    if type(temperature) in (int, float) and temperature == 1:
        return None
    if type(temperature) is int:
        temperature = as_number("temperature", temperature)
    values = as_array("temperature", temperature)
    if values.dtype.kind not in "fiu" and not _is_bfloat16(values.dtype):
        raise TypeError(f"temperature has dtype {values.dtype}, need real numbers")
    with np.errstate(over="ignore", under="ignore"):
        values = values.astype(np.float64)
    is_right = (values > 0) & (values < np.inf)
    if np.count_nonzero(is_right) < is_right.size:
        wrong = values[~is_right][0]
        raise ValueError(f"temperature must be positive and finite as a float64, got {wrong}")
    slices = tuple([1 if i in axes else n for i, n in enumerate(shape)])
    return _broadcast("temperature", values, slices)


def as_choice(name: str, value: object, choices: tuple[str, ...]) -> str:
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")
    return value


def as_integer(name: str, value: Any) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None


def as_count(name: str, value: Any, least: int, most: int | None = None) -> int:
    count = as_integer(name, value)
    if count < least or (most is not None and count > most):
        wanted = f"at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} must be {wanted}, got {count}")
    return count


def as_number(name: str, value: Any) -> float:
    if not isinstance(value, (int, float, np.integer, np.floating)):
        raise TypeError(f"{name} must be a number, got {value!r}")
    try:
        return float(value)
    except OverflowError:
        return math.inf if value > 0 else -math.inf


def as_label_smoothing(value: Any) -> float:
    smoothing = as_number("label_smoothing", value)
    if not 0 <= smoothing <= 1:
        raise ValueError(f"label_smoothing must be from 0 to 1, got {value}")
    return smoothing


def as_factor(name: str, value: Any) -> float:
    factor = as_number(name, value)
    if not 0 < factor < np.inf:
        raise ValueError(f"{name} must be positive and finite, got {value}")
    return factor


def as_labels(
    name: str,
    labels: NDArray[Any],
    shape: tuple[int, ...],
    classes: int,
    ignore_index: int | None = None,
) -> NDArray[np.int64]:
    """Class labels, one a slice, with -1 for those that are to be ignored."""
    if not issubclass(labels.dtype.type, np.integer) or labels.dtype.kind not in "iu":
        raise TypeError(f"{name} has dtype {labels.dtype}, need integers")
    if labels.shape != shape:
        raise ValueError(f"{name} has shape {labels.shape}, need {shape}: a label for each slice")
    labels = labels.copy()  # what is found to be in range must stay so, whatever threads write
    is_wrong = (labels < 0) | (labels >= classes)
    is_ignored: Any = False if ignore_index is None else labels == ignore_index
    is_wrong &= ~np.asarray(is_ignored)
    if is_wrong.any():
        wrong = f"{name} {labels[is_wrong][0]} is out of range for {classes} classes"
        but = "" if ignore_index is None else f" and not ignore_index {ignore_index}"
        raise IndexError(wrong + but)
    return np.where(is_ignored, np.int64(-1), labels.astype(np.int64))


def as_weight(
    name: str, weight: ArrayLike | None, count: int, of: str, work: DType
) -> NDArray[Any] | None:
    """Non-negative weights, one for each of `count` (classes or samples), in float64 or wider."""
    if weight is None:
        return None
    values = as_array(name, weight)
    real_dtype(name, values.dtype)
    if values.shape != (count,):
        raise ValueError(f"{name} has shape {values.shape}, need ({count},): one for each {of}")
    with np.errstate(over="ignore", under="ignore"):
        values = values.astype(np.promote_types(work, np.float64))
    is_wrong = ~((values >= 0) & (values < np.inf))
    if is_wrong.any():
        raise ValueError(f"{name} must be finite and not negative, got {values[is_wrong][0]}")
    return values


def check_out(out: object, shape: tuple[int, ...], dtype: DType) -> NDArray[Any]:
    """`out`, if the result can be written to it; of either byte order."""
    if not isinstance(out, np.ndarray) or isinstance(out, (np.ma.MaskedArray, np.matrix)):
        raise TypeError(f"out must be a numpy.ndarray, got {type(out).__name__}")
    if out.dtype.newbyteorder("=") != dtype:
        raise TypeError(f"out has dtype {out.dtype}, need {dtype}")
    if out.shape != shape:
        raise ValueError(f"out has shape {out.shape}, need {shape}")
    if not out.flags.writeable:
        raise ValueError("out is read-only, need a writeable array")
    return out


def _broadcast(name: str, array: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    if array.shape == shape:
        return array
    try:
        return np.broadcast_to(array, shape)
    except ValueError:
        raise ValueError(
            f"{name} has shape {array.shape}, which does not broadcast to {shape}"
        ) from None
