"""Time decisions, losses and gradients beside other libraries, and print which targets are met.

    python benchmarks/losses.py

As in compare.py, the contestants take turns within one process, and all figures are medians. Each
function is called with an array of logits, a label for each row and, for a backward function, a
gradient; all of them use one thread.
"""

import functools
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special

import record
import targets
from fastsoftmax import _backend
from fastsoftmax._functions import Functions
from fastsoftmax._timing import Contestant, Timing, measure

K = 10
"""Of top_k."""


def labels_of(x: Any) -> Any:
    return np.random.default_rng(1).integers(x.shape[1], size=x.shape[0])


def gradient_of(x: Any) -> Any:
    return np.random.default_rng(2).standard_normal(x.shape, x.dtype.type)


def ours(backend: str) -> Contestant:
    functions = Functions(_backend.get(backend))

    def prepare(function: str, x: Any, axis: int) -> Callable[[], Any]:
        if function == "predict":
            return lambda: functions.predict(x)
        if function == "predict with confidence":
            return lambda: functions.predict(x, return_confidence=True)
        if function == "top_k":
            return lambda: functions.top_k(x, K)
        if function == "softmax_backward":
            grad, y, out = gradient_of(x), functions.softmax(x, -1), np.zeros_like(x)
            return lambda: functions.softmax_backward(grad, y, out=out)
        with_grad = function == "cross_entropy with gradient"
        return functools.partial(functions.cross_entropy, x, labels_of(x), return_grad=with_grad)

    return prepare


def our_softmax(function: str, x: Any, axis: int) -> Callable[[], Any]:
    """The softmax, on the best backend, that `predict` does without."""
    functions, out = Functions(_backend.get(_backend.available()[0])), np.zeros_like(x)
    return lambda: functions.softmax(x, axis, out=out)


def argmax(function: str, x: Any, axis: int) -> Callable[[], Any]:
    return lambda: np.argmax(x, axis)


def scipy_argmax(function: str, x: Any, axis: int) -> Callable[[], Any]:
    def call() -> Any:
        y = scipy.special.softmax(x, axis)
        return y.argmax(axis), y.max(axis)

    return call


def pytorch(function: str, x: Any, axis: int) -> Callable[[], Any]:
    import torch

    torch.set_num_threads(1)
    logits, labels = torch.from_numpy(x), torch.from_numpy(labels_of(x))
    loss = torch.nn.functional.cross_entropy

    def forward_and_backward() -> Any:
        leaf = logits.detach().requires_grad_()
        loss(leaf, labels).backward()
        return leaf.grad

    if function.startswith("predict"):
        return lambda: torch.softmax(logits, axis).max(axis)
    if function == "top_k":
        return lambda: torch.softmax(logits, axis).topk(K)
    if function == "softmax_backward":
        grad, y = torch.from_numpy(gradient_of(x)), torch.softmax(logits, axis)
        out = torch.from_numpy(np.zeros_like(x))
        return lambda: torch._softmax_backward_data(grad, y, axis, torch.float32, grad_input=out)
    return forward_and_backward if "gradient" in function else lambda: loss(logits, labels)


def main() -> None:
    timings = []
    for work in dict.fromkeys(target.work for target in targets.LOSSES):
        print(work, "...", file=sys.stderr, flush=True)
        everyone: dict[str, Contestant] = {
            **{f"fastsoftmax-{name}": ours(name) for name in _backend.available()},
            "pytorch": pytorch,
        }
        if work.function.startswith("predict"):
            everyone |= {"softmax": our_softmax, "argmax": argmax, "scipy": scipy_argmax}
        timings.append(Timing(work, measure(everyone, work, seconds=2).seconds))
    print(*record.markdown(targets.rows(targets.LOSSES, timings)), sep="\n")


if __name__ == "__main__":
    main()
