from collections.abc import Sequence
from typing import Any, Literal, SupportsIndex, TypeAlias, TypeVar, overload

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastsoftmax import calibration
from fastsoftmax._workers import get_workers, set_workers

__all__ = [
    "__version__",
    "calibration",
    "cross_entropy",
    "get_workers",
    "log_softmax",
    "log_softmax_backward",
    "logsumexp",
    "nll_loss",
    "predict",
    "set_workers",
    "show_config",
    "softmax",
    "softmax_backward",
    "softmax_grad_hess",
    "softmax_logsumexp",
    "top_k",
]

_Axis: TypeAlias = SupportsIndex | Sequence[SupportsIndex] | None
_Reduction: TypeAlias = Literal["mean", "sum", "none"]
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
def softmax_logsumexp(
    x: ArrayLike,
    axis: _Axis = -1,
    *,
    where: ArrayLike | None = None,
    dtype: DTypeLike | None = None,
    out: None = None,
    workers: int | None = None,
) -> tuple[Any, Any]: ...
@overload
def softmax_logsumexp(
    x: ArrayLike,
    axis: _Axis = -1,
    *,
    where: ArrayLike | None = None,
    dtype: DTypeLike | None = None,
    out: _Out,
    workers: int | None = None,
) -> tuple[_Out, Any]: ...
@overload
def predict(
    logits: ArrayLike,
    axis: SupportsIndex | None = -1,
    *,
    return_confidence: Literal[False] = False,
    workers: int | None = None,
) -> Any: ...
@overload
def predict(
    logits: ArrayLike,
    axis: SupportsIndex | None = -1,
    *,
    return_confidence: Literal[True],
    workers: int | None = None,
) -> tuple[Any, Any]: ...
def top_k(
    logits: ArrayLike,
    k: SupportsIndex,
    axis: SupportsIndex | None = -1,
    *,
    log: bool = False,
    workers: int | None = None,
) -> tuple[NDArray[Any], NDArray[np.intp]]: ...
@overload
def cross_entropy(
    logits: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    axis: SupportsIndex = -1,
    ignore_index: SupportsIndex = -100,
    label_smoothing: float = 0.0,
    reduction: _Reduction = "mean",
    return_grad: Literal[False] = False,
    workers: int | None = None,
) -> Any: ...
@overload
def cross_entropy(
    logits: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    axis: SupportsIndex = -1,
    ignore_index: SupportsIndex = -100,
    label_smoothing: float = 0.0,
    reduction: _Reduction = "mean",
    return_grad: Literal[True],
    workers: int | None = None,
) -> tuple[Any, NDArray[Any]]: ...
def nll_loss(
    log_probs: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    axis: SupportsIndex = -1,
    ignore_index: SupportsIndex = -100,
    reduction: _Reduction = "mean",
) -> Any: ...
@overload
def softmax_backward(
    grad: ArrayLike,
    y: ArrayLike,
    axis: _Axis = -1,
    *,
    out: None = None,
    workers: int | None = None,
) -> Any: ...
@overload
def softmax_backward(
    grad: ArrayLike,
    y: ArrayLike,
    axis: _Axis = -1,
    *,
    out: _Out,
    workers: int | None = None,
) -> _Out: ...
@overload
def log_softmax_backward(
    grad: ArrayLike,
    log_y: ArrayLike,
    axis: _Axis = -1,
    *,
    out: None = None,
    workers: int | None = None,
) -> Any: ...
@overload
def log_softmax_backward(
    grad: ArrayLike,
    log_y: ArrayLike,
    axis: _Axis = -1,
    *,
    out: _Out,
    workers: int | None = None,
) -> _Out: ...
def softmax_grad_hess(
    logits: ArrayLike,
    target: ArrayLike,
    weight: ArrayLike | None = None,
    *,
    factor: float | None = None,
    workers: int | None = None,
) -> tuple[NDArray[Any], NDArray[Any]]: ...
@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, Any]: ...
