from collections.abc import Sequence
from typing import Any, Literal, SupportsIndex, TypeAlias, TypeVar, overload

from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastsoftmax._workers import get_workers, set_workers

__all__ = [
    "__version__",
    "get_workers",
    "log_softmax",
    "logsumexp",
    "set_workers",
    "show_config",
    "softmax",
]

_Axis: TypeAlias = SupportsIndex | Sequence[SupportsIndex] | None
_Out = TypeVar("_Out", bound=NDArray[Any])

__version__: str

# Without `out` the result is an array, or a NumPy scalar where no dimension is left.

@overload
def softmax(
    x: ArrayLike,
    axis: _Axis = None,
    *,
    where: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    dtype: DTypeLike | None = None,
    out: None = None,
    workers: int | None = None,
) -> Any: ...
@overload
def softmax(
    x: ArrayLike,
    axis: _Axis = None,
    *,
    where: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    dtype: DTypeLike | None = None,
    out: _Out,
    workers: int | None = None,
) -> _Out: ...
@overload
def log_softmax(
    x: ArrayLike,
    axis: _Axis = None,
    *,
    where: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    dtype: DTypeLike | None = None,
    out: None = None,
    workers: int | None = None,
) -> Any: ...
@overload
def log_softmax(
    x: ArrayLike,
    axis: _Axis = None,
    *,
    where: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    dtype: DTypeLike | None = None,
    out: _Out,
    workers: int | None = None,
) -> _Out: ...
@overload
def logsumexp(
    a: ArrayLike,
    axis: _Axis = None,
    b: ArrayLike | None = None,
    keepdims: bool = False,
    return_sign: Literal[False] = False,
    *,
    where: ArrayLike | None = None,
    dtype: DTypeLike | None = None,
    out: None = None,
    workers: int | None = None,
) -> Any: ...
@overload
def logsumexp(
    a: ArrayLike,
    axis: _Axis = None,
    b: ArrayLike | None = None,
    keepdims: bool = False,
    return_sign: Literal[False] = False,
    *,
    where: ArrayLike | None = None,
    dtype: DTypeLike | None = None,
    out: _Out,
    workers: int | None = None,
) -> _Out: ...
@overload
def logsumexp(
    a: ArrayLike,
    axis: _Axis = None,
    b: ArrayLike | None = None,
    keepdims: bool = False,
    *,
    return_sign: Literal[True],
    where: ArrayLike | None = None,
    dtype: DTypeLike | None = None,
    out: NDArray[Any] | None = None,
    workers: int | None = None,
) -> tuple[Any, Any]: ...
@overload
def logsumexp(
    a: ArrayLike,
    axis: _Axis,
    b: ArrayLike | None,
    keepdims: bool,
    return_sign: Literal[True],
    *,
    where: ArrayLike | None = None,
    dtype: DTypeLike | None = None,
    out: NDArray[Any] | None = None,
    workers: int | None = None,
) -> tuple[Any, Any]: ...
@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, Any]: ...
