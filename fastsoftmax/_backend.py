"""Which backends exist here, and which one is in force."""

import importlib
import os
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from fastsoftmax import _fallback

BACKENDS = ("avx512", "avx2", "neon", "scalar", "numpy")
"""Every backend there is, best first."""

VARIABLE = "FASTSOFTMAX_BACKEND"
"""The environment variable that forces one of them by its name; empty means unset."""


def _import_core() -> tuple[ModuleType | None, ImportError | None]:
    try:
        return importlib.import_module("fastsoftmax._core"), None
    except ImportError as error:
        return None, error


_core, EXTENSION_ERROR = _import_core()


class Kernels(Protocol):
    """What a backend does, on 3-D arrays (outer, length, inner) that are reduced over `length`."""

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

    # The public function `general`, with a quick way before it for calls on plain arrays.

    def quick(self, general: Callable[..., Any]) -> Callable[..., Any]: ...

    # Such ways of others. A lane accepts a call by returning its result; it returns None for any
    # other.

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


class Choice(NamedTuple):
    """A backend, and why it is the one in force."""

    kernels: Kernels
    reason: str


def available() -> tuple[str, ...]:
    """The names of the backends that work here, best first."""
    compiled = () if _core is None else _core.supported()
    return tuple(name for name in BACKENDS if name in compiled or name == "numpy")


def get(name: str) -> Kernels:
    """The kernels of the backend called `name`; ValueError if there are none, or not here."""
    if name not in available():
        problem = "is not available here" if name in BACKENDS else "is unknown"
        raise ValueError(f"backend {name!r} {problem}; available: {', '.join(available())}")
    if _core is None or name == "numpy":
        return _fallback.Kernels()
    kernels: Kernels = _core.Kernels(name)
    return kernels


def _choose() -> Choice:
    forced = os.environ.get(VARIABLE)
    if not forced:
        return Choice(get(available()[0]), "the best available")
    try:
        return Choice(get(forced), f"forced by {VARIABLE}")
    except ValueError as error:
        # Not an ImportError: nobody should take it for a missing package and go on without.
        raise ValueError(f"{VARIABLE}={forced!r}: {error}") from None


ACTIVE = _choose()
"""The backend in force: the one that the environment forces, or the best that works here."""
