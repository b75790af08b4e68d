"""Time decisions, losses, gradients and weighted sums beside other libraries, and judge them.

    python benchmarks/losses.py [--json FILE] [--record]

As in compare.py, the contestants take turns within one process, and all figures are medians. Each
function is called with an array of logits, a label for each slice (or its probabilities) and, for a
backward function, a gradient; all of them use one thread. PyTorch's losses take the classes along
axis 1, which for rows is the last. --record puts the figures into docs/.
"""

import argparse
import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.special

import fastsoftmax
import record
import targets
from compare import per_element
from fastsoftmax import _backend
from fastsoftmax._functions import Functions
from fastsoftmax._timing import Contestant, Timing, measure

K, MANY = 10, 1000
"""Of top_k."""

SMOOTHING = 0.1


IGNORED = -100
"""What every third label is, where some are ignored."""


def labels_of(x: Any, axis: int) -> Any:
    slices = np.delete(x.shape, axis)
    return np.random.default_rng(1).integers(x.shape[axis], size=slices)


def some_labels_of(x: Any, axis: int) -> Any:
    labels = labels_of(x, axis)
    labels.flat[::3] = IGNORED
    return labels


def weights_of(x: Any, axis: int) -> Any:
    return np.random.default_rng(3).uniform(0.5, 2.0, x.shape[axis]).astype(x.dtype)


def probabilities_of(x: Any) -> Any:
    return scipy.special.softmax(x[::-1], 1)


def gradient_of(x: Any) -> Any:
    return np.random.default_rng(2).standard_normal(x.shape, x.dtype.type)


def ours(backend: str) -> Contestant:
    functions = Functions(_backend.get(backend))

    def prepare(function: str, x: Any, axis: int) -> Callable[[], Any]:
        with_grad = function.endswith(" with gradient")
        loss = functools.partial(functions.cross_entropy, x, axis=axis, return_grad=with_grad)
        match function.removesuffix(" with gradient"):
            case "predict":
                return lambda: functions.predict(x, axis)
            case "predict with confidence":
                return lambda: functions.predict(x, axis, return_confidence=True)
            case "top_k" | "top_k of 1000":
                k = K if function == "top_k" else MANY
                return functools.partial(functions.top_k, x, k, axis)
            case "softmax_backward" | "log_softmax_backward":
                y = getattr(functions, function.removesuffix("_backward"))(x, axis)
                backward, grad = getattr(functions, function), gradient_of(x)
                return functools.partial(backward, grad, y, axis, out=np.zeros_like(x))
            case "softmax_grad_hess":
                return functools.partial(functions.softmax_grad_hess, x, labels_of(x, axis))
            case "softmax_logsumexp":
                out = np.zeros_like(x)
                return functools.partial(functions.softmax_logsumexp, x, axis, out=out)
            case "logsumexp with weights":
                return functools.partial(functions.logsumexp, x, axis, probabilities_of(x))
            case "label smoothing":
                return functools.partial(loss, labels_of(x, axis), label_smoothing=SMOOTHING)
            case "class weights":
                return functools.partial(loss, labels_of(x, axis), weights_of(x, axis))
            case "ignored labels":
                return functools.partial(loss, some_labels_of(x, axis), ignore_index=IGNORED)
            case "probability targets":
                return functools.partial(loss, probabilities_of(x))
            case "cross_entropy":
                return functools.partial(loss, labels_of(x, axis))
            case "nll_loss":
                return functools.partial(functions.nll_loss, x, labels_of(x, axis), axis=axis)
        raise ValueError(function)

    return prepare


def our_softmax(backend: str) -> Contestant:
    """The softmax that `predict` does without."""
    functions = Functions(_backend.get(backend))

    def prepare(function: str, x: Any, axis: int) -> Callable[[], Any]:
        out = np.zeros_like(x)
        return lambda: functions.softmax(x, axis, out=out)

    return prepare


def argmax(function: str, x: Any, axis: int) -> Callable[[], Any]:
    return lambda: np.argmax(x, axis)


def scipy_argmax(function: str, x: Any, axis: int) -> Callable[[], Any]:
    def call() -> Any:
        y = scipy.special.softmax(x, axis)
        return y.argmax(axis), y.max(axis)

    return call


def scipy_weighted(function: str, x: Any, axis: int) -> Callable[[], Any]:
    return functools.partial(scipy.special.logsumexp, x, axis, probabilities_of(x))


def pytorch(function: str, x: Any, axis: int) -> Callable[[], Any]:
    import torch

    torch.set_num_threads(1)
    logits, labels = torch.from_numpy(x), torch.from_numpy(labels_of(x, axis))
    softmax, out = torch.softmax, torch.from_numpy(np.zeros_like(x))

    def backward(kernel: Callable[..., Any], y: Any, place: str) -> Callable[[], Any]:
        grad = torch.from_numpy(gradient_of(x))
        return lambda: kernel(grad, y, axis, y.dtype, **{place: out})

    def grad_and_hess() -> Any:
        y = softmax(logits, axis)
        hess = y * (1 - y)
        y[torch.arange(len(y)), labels] -= 1
        return y, hess

    def loss(target: Any, **options: Any) -> Callable[[], Any]:
        of = functools.partial(torch.nn.functional.cross_entropy, **options)

        def forward_and_backward() -> Any:
            leaf = logits.detach().requires_grad_()
            of(leaf, target).backward()
            return leaf.grad

        if function.endswith(" with gradient"):
            return forward_and_backward
        return lambda: of(logits, target)

    match function.removesuffix(" with gradient"):
        case "predict" | "predict with confidence":
            return lambda: softmax(logits, axis).max(axis)
        case "top_k" | "top_k of 1000":
            k = K if function == "top_k" else MANY
            return lambda: softmax(logits, axis).topk(k, axis)
        case "softmax_backward":
            return backward(torch._softmax_backward_data, softmax(logits, axis), "grad_input")
        case "log_softmax_backward":
            log_y = torch.log_softmax(logits, axis)
            return backward(torch._log_softmax_backward_data, log_y, "out")
        case "softmax_grad_hess":
            return grad_and_hess
        case "softmax_logsumexp":
            return lambda: (softmax(logits, axis, out=out), torch.logsumexp(logits, axis))
        case "logsumexp with weights":
            weights = torch.from_numpy(probabilities_of(x))
            return lambda: torch.logsumexp(logits + weights.log(), axis)
        case "label smoothing":
            return loss(labels, label_smoothing=SMOOTHING)
        case "class weights":
            return loss(labels, weight=torch.from_numpy(weights_of(x, axis)))
        case "ignored labels":
            return loss(torch.from_numpy(some_labels_of(x, axis)), ignore_index=IGNORED)
        case "probability targets":
            return loss(torch.from_numpy(probabilities_of(x)))
        case "cross_entropy":
            return loss(labels)
        case "nll_loss":
            return lambda: torch.nn.functional.nll_loss(logits, labels)
    raise ValueError(function)


def timings() -> list[Timing]:
    found = []
    for work in dict.fromkeys(target.work for target in targets.LOSSES):
        print(work, "...", file=sys.stderr, flush=True)
        everyone: dict[str, Contestant] = {
            **{f"fastsoftmax-{name}": ours(name) for name in _backend.available()},
            "pytorch": pytorch,
        }
        if work.function.startswith("predict"):
            judged = set(targets.BACKENDS).intersection(_backend.available())
            everyone |= {f"softmax-{name}": our_softmax(name) for name in sorted(judged)}
            everyone |= {"argmax": argmax, "scipy": scipy_argmax}
        if work.function == "logsumexp with weights":
            everyone["scipy"] = scipy_weighted
        found.append(Timing(work, measure(everyone, work, seconds=2).seconds))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures there")
    parser.add_argument("--record", action="store_true", help="write all of it into docs/")
    options = parser.parse_args()

    with fastsoftmax.set_workers(1):
        found = timings()
    machine = record.machine()
    report = {
        "machine": machine,
        "timings": [{"work": t.work._asdict(), "seconds": t.seconds} for t in found],
    }
    tables = {
        "loss targets": list(record.markdown(targets.rows(targets.LOSSES, found))),
        "loss times": list(record.markdown(per_element(found))),
    }
    files = [options.json] if options.json else []
    if options.record:
        files.append(record.ROOT / "docs/losses.json")
    for file in files:
        file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if options.record:
        record.put("docs/performance.md", "loss machine", [record.machine_in_words(machine)])
        for block, lines in tables.items():
            record.put("docs/performance.md", block, lines)
    for lines in tables.values():
        print(*lines, "", sep="\n")


if __name__ == "__main__":
    main()
