"""What the kernels are to reach: the time of a backend divided by that of a peer, at most."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from fastsoftmax._timing import Timing, Work


class Target(NamedTuple):
    work: Work
    peer: str
    avx512: float
    avx2: float


TARGETS = (
    Target(Work("softmax", "float32", (10,), -1), "pytorch", 0.20, 0.25),
    Target(Work("softmax", "float32", (1000,), -1), "pytorch", 0.20, 0.25),
    Target(Work("softmax", "float32", (1000, 10), -1), "onnxruntime", 0.20, 0.35),
    Target(Work("softmax", "float32", (10_000, 16), -1), "onnxruntime", 0.33, 0.60),
    Target(Work("softmax", "float32", (128, 1000), -1), "onnxruntime", 0.55, 1.0),
    Target(Work("softmax", "float32", (64, 32_000), -1), "onnxruntime", 0.65, 1.0),
    Target(Work("softmax", "float32", (60_000, 1000), -1), "copy", 1.25, 1.5),
    Target(Work("softmax", "float32", (2000, 32_000), -1), "copy", 1.25, 1.5),
    Target(Work("softmax", "float32", (8, 4_194_304), -1), "copy", 1.6, 1.8),
    Target(Work("softmax", "float32", (32, 1000, 49), 1), "jax", 0.35, 0.50),
    Target(Work("softmax", "float32", (64, 1000, 64), 1), "jax", 0.50, 0.65),
    Target(Work("softmax", "float32", (2048, 2048), 0), "pytorch", 0.40, 0.55),
    Target(Work("softmax", "float32", (1000, 10), 0), "onnxruntime", 0.35, 0.60),
    Target(Work("log_softmax", "float32", (128, 1000), -1), "onnxruntime", 0.55, 1.0),
    Target(Work("logsumexp", "float32", (128, 1000), -1), "pytorch", 0.12, 0.22),
    Target(Work("softmax", "float64", (128, 1000), -1), "pytorch", 0.33, 0.60),
    Target(Work("softmax", "float64", (1000, 10), -1), "onnxruntime", 0.15, 0.25),
    Target(Work("softmax", "float16", (128, 1000), -1), "pytorch", 0.40, 0.60),
)

_PREDICT = [Work("predict", "float32", shape, -1) for shape in ((128, 1000), (64, 32_000))]
_CONFIDENT = [work._replace(function="predict with confidence") for work in _PREDICT]
_LOSS = [Work("cross_entropy", "float32", shape, -1) for shape in ((128, 1000), (256, 32_000))]
_GRADIENT = [work._replace(function="cross_entropy with gradient") for work in _LOSS]
_WEIGHTED = [
    Work("logsumexp with weights", "float32", shape, -1)
    for shape in ((4, 10), (10_000, 10), (128, 1000))
]


def _works(dtype: str, shape: tuple[int, ...], axis: int, *functions: str) -> list[Work]:
    return [Work(function, dtype, shape, axis) for function in functions]


_PARTS = (
    "label smoothing",
    "label smoothing with gradient",
    "probability targets",
    "probability targets with gradient",
)
_NO_SLOWER = [
    *_WEIGHTED,
    *_works("float32", (128, 1000), -1, *_PARTS),
    *_works("float32", (64, 32_000), -1, *_PARTS),
    *_works(
        "float32",
        (128, 1000),
        -1,
        "log_softmax_backward",
        "softmax_grad_hess",
        "softmax_logsumexp",
        "class weights",
        "ignored labels",
        "class weights with gradient",
    ),
    *_works("float32", (64, 128_000), -1, "top_k of 1000"),
    *_works(
        "float64",
        (128, 1000),
        -1,
        "cross_entropy",
        "label smoothing",
        "probability targets",
        "softmax_backward",
        "log_softmax_backward",
    ),
    *_works(
        "float32",
        (10_000, 10),
        -1,
        "predict with confidence",
        "top_k",
        "cross_entropy",
        "class weights",
        "ignored labels",
        "label smoothing",
        "probability targets",
        "nll_loss",
        "softmax_backward",
        "log_softmax_backward",
        "softmax_grad_hess",
        "softmax_logsumexp",
    ),
    *_works("float32", (10_000, 2), -1, "log_softmax_backward"),
    *_works("float32", (5000, 24), -1, "nll_loss", "softmax_backward"),
    *_works(
        "float32",
        (4, 3, 64, 64),
        1,
        "cross_entropy",
        "label smoothing with gradient",
        "probability targets",
        "probability targets with gradient",
        "softmax_logsumexp",
        "softmax_backward",
        "log_softmax_backward",
    ),
    *_works(
        "float32",
        (1, 21, 128, 128),
        1,
        "predict with confidence",
        "cross_entropy",
        "class weights",
        "label smoothing",
        "cross_entropy with gradient",
        "label smoothing with gradient",
        "probability targets",
        "probability targets with gradient",
        "softmax_backward",
        "log_softmax_backward",
    ),
    *_works(
        "float32",
        (2, 10, 16, 16),
        1,
        "predict with confidence",
        "top_k",
        "cross_entropy",
        "class weights",
        "cross_entropy with gradient",
        "nll_loss",
        "softmax_backward",
    ),
    *_works(
        "float32",
        (4, 10),
        -1,
        "predict with confidence",
        "top_k",
        "cross_entropy",
        "cross_entropy with gradient",
        "class weights",
        "ignored labels",
        "probability targets",
        "nll_loss",
        "softmax_backward",
        "log_softmax_backward",
        "softmax_grad_hess",
        "softmax_logsumexp",
    ),
]
LOSSES = (
    *(Target(work, "softmax", 0.25, 0.25) for work in _PREDICT),
    *(Target(work, "argmax", 1.0, 1.0) for work in _PREDICT),
    *(Target(work, "softmax", 0.85, 0.85) for work in _CONFIDENT),
    *(Target(work, "scipy", 0.1, 0.1) for work in (*_PREDICT, *_CONFIDENT)),
    *(Target(work, "pytorch", 0.3, 0.3) for work in _LOSS),
    *(Target(work, "pytorch", 0.35, 0.35) for work in _GRADIENT),
    *(Target(work, "scipy", 0.15, 0.25) for work in _WEIGHTED),
    Target(Work("softmax_backward", "float32", (128, 1000), -1), "pytorch", 0.7, 0.7),
    Target(Work("top_k", "float32", (64, 128_000), -1), "pytorch", 0.25, 0.25),
    *(Target(work, "pytorch", 1.0, 1.0) for work in _NO_SLOWER),
)
"""Of decisions, losses and gradients. The peer "softmax" is our own, of the same backend."""

CALLS = {
    "exp(x)": None,
    "exp(x, out=out)": None,
    "softmax(x)": 1.0,
    "softmax(x, out=out)": 0.5,
    "softmax(x, -1)": 1.0,
    "softmax(x, temperature=2.0)": 1.0,
    "softmax(x, where=where)": 1.0,
    "softmax(x, dtype='float32')": None,
    "log_softmax(x)": None,
    "log_softmax(x, out=out)": None,
    "logsumexp(x)": 1.0,
    "logsumexp(x, keepdims=True)": 1.0,
    "logsumexp(x, -1, keepdims=True, out=one)": 1.0,
    "softmax(every_other)": None,
    "softmax(values)": None,
}
"""Of calls on 10 float32 values: the ratio to the first. None stands for no target."""

SCIPY = {"avx512": 0.15, "avx2": 0.25}
"""For every piece of work that is measured."""

BACKENDS = tuple(SCIPY)


def table(timings: Sequence[Timing]) -> Iterator[list[str]]:
    """Rows of text, the header first: each target beside the ratio that was measured.

    The last ones are where each backend gains least on SciPy.
    """
    yield from rows(TARGETS, timings)
    for name in BACKENDS:
        ratios = [(_ratio(timing.seconds, name, "scipy"), str(timing.work)) for timing in timings]
        measured = [(ratio, work) for ratio, work in ratios if ratio is not None]
        if measured:
            ratio, work = max(measured)
            judged = tuple(_cells([ratio], [SCIPY[name]]))
            cells = (judged if column == name else ("", "") for column in BACKENDS)
            named = f"the worst of all {len(timings)}: {work}"
            yield [named, "scipy", *itertools.chain(*cells)]


def rows(targets: Iterable[Target], timings: Sequence[Timing]) -> Iterator[list[str]]:
    """The same for these targets alone."""
    measured = {timing.work: timing.seconds for timing in timings}
    yield ["work", "peer", *(f"{name}{column}" for name in BACKENDS for column in ("", " target"))]
    for target in targets:
        if target.work in measured:
            ratios = [_ratio(measured[target.work], name, target.peer) for name in BACKENDS]
            yield [str(target.work), target.peer, *_cells(ratios, (target.avx512, target.avx2))]


def _ratio(seconds: dict[str, float], backend: str, peer: str) -> float | None:
    """None where one of the two was not there."""
    ours = seconds.get(f"fastsoftmax-{backend}")
    theirs = seconds.get(f"{peer}-{backend}", seconds.get(peer))
    return None if ours is None or theirs is None else ours / theirs


def _cells(ratios: Iterable[float | None], limits: Iterable[float]) -> Iterator[str]:
    for ratio, limit in zip(ratios, limits, strict=True):
        yield "–" if ratio is None else f"{ratio:.2f}"
        met = "not measured" if ratio is None else "met" if ratio <= limit else "missed"
        yield f"{limit:.2f} {met}"
