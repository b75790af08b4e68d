from collections.abc import Callable
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

def supported() -> tuple[str, ...]: ...

@final
class Kernels:
    def __init__(self, name: str) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def dtypes(self) -> tuple[str, ...]: ...
    def convert(self, source: NDArray[Any], target: NDArray[Any]) -> bool: ...
    def softmax(
        self,
        x: NDArray[Any],
        out: NDArray[Any],
        temperature: NDArray[np.float64] | None,
        where: NDArray[np.bool_] | None,
    ) -> None: ...
    def log_softmax(
        self,
        x: NDArray[Any],
        out: NDArray[Any],
        temperature: NDArray[np.float64] | None,
        where: NDArray[np.bool_] | None,
    ) -> None: ...
    def logsumexp(
        self, x: NDArray[Any], out: NDArray[Any], where: NDArray[np.bool_] | None
    ) -> None: ...
    def softmax_logsumexp(
        self,
        x: NDArray[Any],
        out: NDArray[Any],
        log_sum: NDArray[Any],
        where: NDArray[np.bool_] | None,
    ) -> None: ...
    def predict(
        self, x: NDArray[Any], index: NDArray[np.intp], confidence: NDArray[Any] | None
    ) -> None: ...
    def top_k(
        self, x: NDArray[Any], values: NDArray[Any], indices: NDArray[np.intp], log: bool
    ) -> None: ...
    def cross_entropy_labels(
        self,
        x: NDArray[Any],
        target: NDArray[np.int64],
        class_weight: NDArray[Any] | None,
        label_smoothing: float,
        loss: NDArray[Any],
        grad: NDArray[Any] | None,
        scale: float,
    ) -> None: ...
    def cross_entropy_probabilities(
        self,
        x: NDArray[Any],
        target: NDArray[Any],
        class_weight: NDArray[Any] | None,
        label_smoothing: float,
        loss: NDArray[Any],
        grad: NDArray[Any] | None,
        scale: float,
    ) -> None: ...
    def softmax_grad_hess(
        self,
        x: NDArray[Any],
        target: NDArray[np.int64],
        weight: NDArray[Any] | None,
        factor: float,
        grad: NDArray[Any],
        hess: NDArray[Any],
    ) -> None: ...
    def softmax_backward(self, grad: NDArray[Any], y: NDArray[Any], out: NDArray[Any]) -> None: ...
    def log_softmax_backward(
        self, grad: NDArray[Any], log_y: NDArray[Any], out: NDArray[Any]
    ) -> None: ...
    def weighted_logsumexp(
        self,
        x: NDArray[Any],
        weights: NDArray[Any],
        log_sum: NDArray[Any],
        sign: NDArray[np.intp],
    ) -> None: ...
    def quick(self, general: Callable[..., Any]) -> Callable[..., Any]: ...
    def predict_lane(self, logits: object, axis: object, with_confidence: object) -> Any: ...
    def top_k_lane(
        self, logits: object, k: object, axis: object, log: object
    ) -> tuple[Any, Any] | None: ...
    def softmax_logsumexp_lane(
        self, x: object, axis: object, out: object
    ) -> tuple[Any, Any] | None: ...
    def cross_entropy_lane(
        self,
        logits: object,
        target: object,
        weight: object,
        axis: object,
        ignore_index: object,
        label_smoothing: object,
        reduction: object,
        with_grad: object,
    ) -> Any: ...
    def nll_loss_lane(
        self,
        log_probs: object,
        target: object,
        weight: object,
        axis: object,
        ignore_index: object,
        reduction: object,
    ) -> Any: ...
    def softmax_grad_hess_lane(
        self, logits: object, target: object, weight: object, factor: object
    ) -> tuple[Any, Any] | None: ...
    def softmax_backward_lane(
        self, grad: object, y: object, axis: object, out: object
    ) -> NDArray[Any] | None: ...
    def log_softmax_backward_lane(
        self, grad: object, log_y: object, axis: object, out: object
    ) -> NDArray[Any] | None: ...
