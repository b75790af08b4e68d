"""Timing of contestants side by side: what is measured, how, and the table of it."""

import functools
import itertools
import math
import statistics
import timeit
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from fastsoftmax._selfcheck import DTYPES, FUNCTIONS

Contestant = Callable[[str, Any, int], Callable[[], Any]]
"""Takes a function's name, an array and an axis; returns the call to be timed.

Whatever a library wants done to the array beforehand (its own tensor type, a compilation) is done
before the call is returned, and so is not timed.
"""


class Work(NamedTuple):
    function: str
    dtype: str
    shape: tuple[int, ...]
    axis: int

    def logits(self) -> Any:
        dtype = np.dtype(self.dtype)
        drawn_as = np.promote_types(dtype, np.float32).type  # the generator has no float16
        logits = 5 * np.random.default_rng(0).standard_normal(self.shape, drawn_as)
        return logits.astype(dtype, copy=False)

    def __str__(self) -> str:
        return f"{self.function} {self.dtype} {self.shape} axis {self.axis}"


WORKS = tuple(
    Work(function, dtype, shape, axis)
    for function, dtype, (shape, axis) in itertools.product(
        FUNCTIONS,
        DTYPES,
        (
            ((10,), -1),
            ((1000,), -1),
            ((1000, 10), -1),
            ((128, 1000), -1),
            ((64, 32000), -1),
            ((1, 1_000_000), -1),
            ((1000, 128), 0),
            ((32, 1000, 49), 1),
        ),
    )
)


class Timing(NamedTuple):
    work: Work
    seconds: dict[str, float]
    """Median time of one call, by contestant."""


class PlainNumPy:
    """The stable formulas, as one writes them in NumPy."""

    @staticmethod
    def softmax(x: Any, axis: int) -> Any:
        exponentials = np.exp(x - x.max(axis, keepdims=True))
        return exponentials / exponentials.sum(axis, keepdims=True)

    @staticmethod
    def log_softmax(x: Any, axis: int) -> Any:
        shifted = x - x.max(axis, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))

    @staticmethod
    def logsumexp(a: Any, axis: int) -> Any:
        largest = a.max(axis, keepdims=True)
        return largest.squeeze(axis) + np.log(np.exp(a - largest).sum(axis))


def functions_of(namespace: object) -> Contestant:
    """The contestant whose functions are attributes of `namespace`, called as SciPy's are."""

    def prepare(function: str, x: Any, axis: int) -> Callable[[], Any]:
        return functools.partial(getattr(namespace, function), x, axis)

    return prepare


def measure(contestants: Mapping[str, Contestant], work: Work, seconds: float = 0.2) -> Timing:
    """Time all contestants at one piece of work for about `seconds` altogether.

    They take turns, so that a change of the processor's clock or a busy neighbour meets all alike.
    """
    settle_allocator()
    x = work.logits()
    timers = {
        name: timeit.Timer(prepare(work.function, x, work.axis))
        for name, prepare in contestants.items()
    }
    # A turn is long against the clock's resolution and short against the time there is.
    turn = seconds / (20 * len(timers))
    calls = {name: _calls_within(turn, timer) for name, timer in timers.items()}
    samples: dict[str, list[float]] = {name: [] for name in timers}
    end = timeit.default_timer() + seconds
    while len(samples[next(iter(samples))]) < 5 or timeit.default_timer() < end:
        for name, timer in timers.items():
            timer.timeit(1)  # meets the caches and the allocator as another contestant left them
            samples[name].append(timer.timeit(calls[name]) / calls[name])
    return Timing(work, {name: statistics.median(times) for name, times in samples.items()})


def settle_allocator() -> None:
    """Make the C library keep freed arrays for reuse, as it does in a process that ran for a while.

    glibc's malloc asks the system anew for each large block until one of that size has been freed;
    the first contestants of a process would be timed at page faults, and later ones not.
    """
    np.empty(30 * 2**20, np.uint8)  # 32 MiB is the largest block that it learns from


def _calls_within(seconds: float, timer: timeit.Timer) -> int:
    """How many calls take about that long; at least one. Warms up on the way."""
    calls = 1
    while (elapsed := timer.timeit(calls)) < seconds / 4:
        calls *= 4
    return max(1, round(calls * seconds / elapsed))


def table(timings: Iterable[Timing]) -> Iterator[str]:
    """Lines of text: the first contestant's times, and their ratios to those of all others."""
    for (function, dtype), group in itertools.groupby(
        timings, key=lambda timing: (timing.work.function, timing.work.dtype)
    ):
        rows = iter(group)
        first = next(rows)
        ours, *peers = first.seconds
        columns = {peer: max(len(f"/ {peer}"), 6) + 2 for peer in peers}
        yield f"{function}, {dtype}: time of {ours}, and its ratio to each peer's"
        yield f"  {'shape':16}{'axis':>4}{'per call':>12}{'ns/element':>12}" + "".join(
            f"{f'/ {peer}':>{width}}" for peer, width in columns.items()
        )
        for work, seconds in itertools.chain([first], rows):
            time = seconds[ours]
            per_element = time / math.prod(work.shape) * 1e9
            yield (
                f"  {work.shape!s:16}{work.axis:4}{_duration(time):>12}{per_element:12.3f}"
                + "".join(f"{time / seconds[peer]:{width}.2f}" for peer, width in columns.items())
            )
        yield ""


def _duration(seconds: float) -> str:
    return f"{seconds * 1e6:.2f} us" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"
