"""What the kernels are to reach: the time of a backend divided by that of a peer, at most."""

import operator
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

SCIPY = {"avx512": 0.15, "avx2": 0.25}
"""For every piece of work that is measured."""

BACKENDS = tuple(SCIPY)


def table(timings: Sequence[Timing]) -> Iterator[list[str]]:
    """Rows of text, the header first: each target beside the ratio that was measured."""
    measured = {timing.work: timing.seconds for timing in timings}
    yield ["work", "peer", *(f"{name}{column}" for name in BACKENDS for column in ("", " target"))]
    for target in TARGETS:
        if target.work in measured:
            ratios = [_ratio(measured[target.work], name, target.peer) for name in BACKENDS]
            yield [str(target.work), target.peer, *_cells(ratios, (target.avx512, target.avx2))]
    worst = [
        max(
            ((_ratio(timing.seconds, name, "scipy"), str(timing.work)) for timing in timings),
            key=lambda pair: pair[0] or 0.0,
        )
        for name in BACKENDS
    ]
    cells = _cells([ratio for ratio, _ in worst], SCIPY.values())
    yield [f"the worst of all {len(timings)}: {worst[0][1]}", "scipy", *cells]


def _ratio(seconds: dict[str, float], backend: str, peer: str) -> float | None:
    """None where one of the two was not there."""
    try:
        return operator.truediv(seconds[f"fastsoftmax-{backend}"], seconds[peer])
    except KeyError:
        return None


def _cells(ratios: Iterable[float | None], limits: Iterable[float]) -> Iterator[str]:
    for ratio, limit in zip(ratios, limits, strict=True):
        yield "–" if ratio is None else f"{ratio:.2f}"
        met = "not measured" if ratio is None else "met" if ratio <= limit else "missed"
        yield f"{limit:.2f} {met}"
