"""Time special values and options beside finite logits without any, on one thread.

    python benchmarks/special.py [--record]

The calls take turns within one process; a figure is the ratio of the least times of all turns, as
the rest is what else the machine did. Of each row of the table, the worst is given, and where it
was found. --record puts the table into docs/performance.md.
"""

import argparse
import functools
import timeit
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import fastsoftmax
import record
from fastsoftmax import _backend
from fastsoftmax._functions import Functions
from fastsoftmax._selfcheck import FUNCTIONS

DTYPES = ("float32", "float64", "float16")
SHAPES = (((10000, 10), -1), ((128, 1000), -1), ((4, 32000), -1), ((32, 1000, 49), 1))

Values = Callable[[np.ndarray, np.random.Generator], Any]
"""Takes logits with the reduced axis moved to the front, to be changed in place."""


def half_masked(x: np.ndarray, rng: np.random.Generator) -> None:
    x[rng.random(x.shape) < 0.5] = -np.inf


def causal_mask(x: np.ndarray, rng: np.random.Generator) -> None:
    x[len(x) // 2 :] = -np.inf


def denormal_results(x: np.ndarray, rng: np.random.Generator) -> None:
    x -= -np.log(np.finfo(x.dtype).smallest_normal).astype(x.dtype) + 5
    x[0] = 0


def one_dominates(x: np.ndarray, rng: np.random.Generator) -> None:
    x[0] = 60


def one(value: float) -> Values:
    return lambda x, rng: x.__setitem__(len(x) // 2, value)


def all_of(value: float) -> Values:
    return lambda x, rng: x.fill(value)


VALUES: dict[str, tuple[Values, float]] = {
    "half of all -inf": (half_masked, 1.5),
    "the latter half -inf": (causal_mask, 1.5),
    "denormal results": (denormal_results, 1.5),
    "one dominates": (one_dominates, 1.5),
    "one +inf": (one(np.inf), 1.5),
    "all -inf": (all_of(-np.inf), 1.5),
    "one NaN": (one(np.nan), 2.0),
    "all NaN": (all_of(np.nan), 2.0),
}
"""And how many times as long as finite logits they may take."""

Option = Callable[[tuple[int, ...], int, np.random.Generator], dict[str, Any]]


def along(shape: tuple[int, ...], axis: int) -> tuple[int, ...]:
    """Of an array with one element for each slice."""
    return tuple(1 if k == axis % len(shape) else n for k, n in enumerate(shape))


OPTIONS: dict[str, Option] = {
    "where=, one for each element": lambda shape, axis, rng: {"where": rng.random(shape) < 0.5},
    "where=, the same for all slices": lambda shape, axis, rng: {
        "where": np.moveaxis(rng.random((*[1] * (len(shape) - 1), shape[axis])) < 0.5, -1, axis)
    },
    "temperature=, one": lambda shape, axis, rng: {"temperature": 1.7},
    "temperature=, one for each slice": lambda shape, axis, rng: {
        "temperature": rng.uniform(0.5, 2.0, along(shape, axis))
    },
}


class Call(NamedTuple):
    logits: np.ndarray
    timer: timeit.Timer


class Worst(NamedTuple):
    ratio: float = 0.0
    where: str = ""


def calls(backend: str, function: str, x: np.ndarray, axis: int) -> dict[str, Call]:
    """What is timed, after the logits have been put into x; first the finite ones."""
    rng = np.random.default_rng(0)
    finite = rng.normal(0.0, 3.0, x.shape).astype(x.dtype)
    placed = {} if function == "logsumexp" else {"out": np.empty_like(x)}

    def call(**options: Any) -> timeit.Timer:
        of = getattr(Functions(_backend.get(backend)), function)
        return timeit.Timer(functools.partial(of, x, axis=axis, **placed, **options))

    found = {"": Call(finite, call())}
    for name, (change, _) in VALUES.items():
        logits = finite.copy()
        change(np.moveaxis(logits, axis, 0), rng)
        found[name] = Call(logits, call())
    if function != "logsumexp":
        for name, option in OPTIONS.items():
            found[name] = Call(finite, call(**option(x.shape, axis, rng)))
    return found


def ratios(backend: str, function: str, x: np.ndarray, axis: int, turns: int) -> dict[str, float]:
    """Of the least times to that with finite logits. All use one array, as its place counts."""
    work = calls(backend, function, x, axis)
    least = dict.fromkeys(work, np.inf)
    for _ in range(turns):
        for name, (logits, timer) in work.items():
            np.copyto(x, logits)
            timer.timeit(1)
            least[name] = min(least[name], timer.timeit(3))
    reference = least.pop("")
    return {name: time / reference for name, time in least.items()}


def worst(backend: str, turns: int) -> dict[str, Worst]:
    found = dict.fromkeys((*VALUES, *OPTIONS), Worst())
    for function in FUNCTIONS:
        for dtype in DTYPES:
            for shape, axis in SHAPES:
                x = np.empty(shape, dtype)
                for name, ratio in ratios(backend, function, x, axis, turns).items():
                    here = Worst(ratio, f"{function} {dtype} {shape} axis {axis}")
                    found[name] = max(found[name], here)
    return found


def table(found: dict[str, dict[str, Worst]]) -> Iterator[list[str]]:
    """Rows of text, the header first, from the worst of each backend."""
    yield ["beside finite logits", "at most", *(c for b in found for c in (b, f"{b}, worst at"))]
    for name in (*VALUES, *OPTIONS):
        most = VALUES[name][1] if name in VALUES else None
        cells = [name, "–" if most is None else f"{most:.1f}"]
        for of_backend in found.values():
            ratio, where = of_backend[name]
            missed = most is not None and ratio > most
            cells += [f"{ratio:.2f}{' missed' if missed else ''}", where]
        yield cells


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--record", action="store_true")
    record_it = parser.parse_args().record
    compiled = [name for name in _backend.available() if name in ("avx512", "avx2")]
    with fastsoftmax.set_workers(1):
        lines = list(record.markdown(table({name: worst(name, turns=100) for name in compiled})))
    print(*lines, sep="\n")
    if record_it:
        record.put("docs/performance.md", "special", ["", *lines])


if __name__ == "__main__":
    main()
