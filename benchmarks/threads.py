"""What a second thread gains, from what size on, and beside peers: figures of docs/threading.md.

    python benchmarks/threads.py [--workers N] [--rounds N] [--record]

One worker and several take turns. Peers have processes of their own, since thread pools that wait
for work disturb each other. Needs a C compiler (CC, or cc) that has OpenMP: the sizes are
tried on a copy of the C library that shares out work of any size.
"""

import argparse
import ctypes
import functools
import math
import multiprocessing
import os
import shlex
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

import fastsoftmax
import peers
import record
from contestants import contestants
from fastsoftmax import _backend
from fastsoftmax._selfcheck import DTYPES, FUNCTIONS
from fastsoftmax._timing import Work, measure, settle_allocator
from peers import result_array

# Those of setup.py, for GCC on x86.
FLAGS = (
    *("-O3", "-std=c11", "-ffp-contract=off", "-falign-loops=32", "-g1", "-pthread", "-fopenmp"),
    *("-fschedule-insns", "-fsched-pressure", "-mtune=icelake-server"),
)

SIZES = tuple(2**exponent for exponent in range(14, 22))

SHAPES = (
    ((500, 4000), -1),
    ((100_000, 10), -1),
    ((1, 2_000_000), -1),
    ((32, 1000, 49), 1),
    ((2048, 2048), 0),
    ((10_000, 10_000), -1),
    ((1, 100_000_000), -1),
)


class Slices(ctypes.Structure):
    """fsm_slices of src/fastsoftmax.h."""

    _fields_ = (
        *((name, ctypes.c_size_t) for name in ("outer", "length", "inner")),
        ("x", ctypes.c_void_p),
        *((f"x_{name}", ctypes.c_ssize_t) for name in ("outer", "length")),
        ("out", ctypes.c_void_p),
        *((f"out_{name}", ctypes.c_ssize_t) for name in ("outer", "length")),
        ("temperature", ctypes.c_void_p),
        *((f"temperature_{name}", ctypes.c_ssize_t) for name in ("outer", "inner")),
        ("where", ctypes.c_void_p),
        *((f"where_{name}", ctypes.c_ssize_t) for name in ("outer", "length", "inner")),
        *((name, ctypes.c_size_t) for name in ("elements", "columns")),
        ("each", ctypes.c_void_p),
        ("team", ctypes.c_void_p),
    )


class Backend(ctypes.Structure):
    """fsm_backend."""

    _fields_ = (
        ("name", ctypes.c_char_p),
        *((dtype, ctypes.POINTER(ctypes.c_void_p)) for dtype in ("f32", "f64")),
    )


SRC = record.ROOT / "src"
PARALLEL = SRC / "parallel.c"


def cc(*arguments: str | Path) -> None:
    subprocess.run([*shlex.split(os.environ.get("CC", "cc")), *FLAGS, *arguments], check=True)


def compiled(folder: Path, source: Path, *options: str) -> Path:
    target = folder / f"{source.stem}.o"
    cc(*options, "-fPIC", f"-I{SRC}", "-c", source, "-o", target)
    return target


@functools.cache
def kernels(folder: Path) -> tuple[Path, ...]:
    """All but what shares out work, compiled side by side: it takes minutes."""
    sources = {*SRC.glob("*.c"), *SRC.glob("isa/*.c")} - {PARALLEL}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return tuple(pool.map(functools.partial(compiled, folder), sources))


def library(folder: Path, *options: str) -> ctypes.CDLL:
    shared = folder / f"fastsoftmax{''.join(options)}.so"
    cc("-shared", "-o", shared, *kernels(folder), compiled(folder, PARALLEL, *options), "-lm")
    loaded = ctypes.CDLL(str(shared))
    loaded.fsm_backend_at.restype = ctypes.POINTER(Backend)
    loaded.fsm_backend_at.argtypes = [ctypes.c_size_t]
    loaded.fsm_run.restype = None
    loaded.fsm_run.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return loaded


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def turns(calls: Sequence[Callable[[], Any]], rounds: int, rest: float = 0) -> list[list[float]]:
    """The times of each call: after one of the same, or after a rest and one of the first."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, taken in zip(calls, times, strict=True):
            if rest:
                time.sleep(rest)
                calls[0]()
            else:
                call()
            taken.append(seconds(call))
    return times


def cells(times: list[list[float]]) -> list[str]:
    """The shortest and the median time of one worker in microseconds, and the speed-ups."""
    one, many = (np.quantile(taken, (0, 0.5)) for taken in times)
    return [f"{one[0] * 1e6:.1f}", f"{one[0] / many[0]:.2f}", f"{one[1] / many[1]:.2f}"]


def sizes(folder: Path, workers: int, rounds: int, *options: str) -> Iterator[list[str]]:
    """Speed-ups of the fastest softmax there is, rows of 256 float32, at sizes around the limits.

    The options are those of the compiler.
    """
    heads = ("µs", "speed-up", "median")
    yield ["elements", *(f"{f} {h}" for f in ("busy", "rested") for h in heads)]
    c = library(folder, *options)
    kernel = c.fsm_backend_at(0).contents.f32[0]  # softmax
    for size in SIZES:
        x = np.random.default_rng(0).normal(0.0, 5.0, (size // 256, 256)).astype(np.float32)
        out = np.zeros_like(x)
        slices = Slices(len(x), 256, 1, x.ctypes.data, 256, 1, out.ctypes.data, 256, 1)
        run = functools.partial(c.fsm_run, kernel, ctypes.byref(slices), x.itemsize)
        calls = [functools.partial(run, n) for n in (1, workers)]
        row = [f"{size}", *cells(turns(calls, 4 * rounds))]
        yield [*row, *cells(turns(calls, rounds, rest=0.003))]


def copying(x: Any, workers: int) -> list[Callable[[], Any]]:
    """Copies of an array by one thread, and by several."""
    out = np.zeros_like(x)
    pool = ThreadPoolExecutor(workers)
    parts = list(
        zip(np.array_split(out.ravel(), workers), np.array_split(x.ravel(), workers), strict=True)
    )
    return [
        lambda: np.copyto(out, x),
        lambda: list(pool.map(lambda part: np.copyto(*part), parts)),
    ]


def speed_ups(workers: int, rounds: int) -> Iterator[list[str]]:
    yield ["work", "µs by one", "speed-up", "median"]
    for dtype in DTYPES:
        for shape, axis in SHAPES:
            # Half a second or so for each row of the table.
            calls = max(3, min(rounds, int(rounds * 2e6 / math.prod(shape))))
            x = Work("softmax", dtype, shape, axis).logits()
            for name in FUNCTIONS:
                out = result_array(name, x, axis)
                options = {} if name == "logsumexp" else {"out": out}
                call = functools.partial(getattr(fastsoftmax, name), x, axis, **options)
                both = [functools.partial(call, workers=n) for n in (1, workers)]
                work = Work(name, dtype, shape, axis)
                yield [str(work), *cells(turns(both, calls))]
            yield [f"copy {dtype} {shape}", *cells(turns(copying(x, workers), calls))]


def medians(name: str, works: Sequence[Work], workers: int) -> list[float]:
    """The median times of one contestant, which has this process for itself."""
    contestant = contestants(workers)[name]
    with fastsoftmax.set_workers(workers):
        return [measure({name: contestant}, work, seconds=0.4).seconds[name] for work in works]


def beside_peers(workers: int) -> Iterator[list[str]]:
    """Times of us and of the peers with as many threads, and our share of the faster peer's."""
    works = [
        Work(name, "float32", shape, axis)
        for shape, axis in SHAPES
        if math.prod(shape) < 10_000_000
        for name in FUNCTIONS
    ]
    ours = f"fastsoftmax-{_backend.available()[0]}"
    names = [ours, *(peer for peer in ("pytorch", "onnxruntime") if peer in peers.installed(1))]
    rounds: dict[str, list[list[float]]] = {name: [] for name in names}
    for _ in range(3):
        for name in names:
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                rounds[name].append(process.submit(medians, name, works, workers).result())
    times = {name: np.median(rounds[name], axis=0) for name in names}
    yield ["work", *(f"{name} µs" for name in names), "ratio"]
    for k, work in enumerate(works):
        taken = [times[name][k] for name in names]
        ratio = f"{taken[0] / min(taken[1:]):.2f}" if taken[1:] else "–"
        yield [str(work), *(f"{time * 1e6:.0f}" for time in taken), ratio]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2, help="compared with one (2)")
    parser.add_argument("--rounds", type=int, default=50, help="turns of each (50)")
    parser.add_argument("--record", action="store_true", help="put the tables into docs/")
    options = parser.parse_args()
    if options.workers < 2 or options.rounds < 1:
        parser.error("needs two workers or more, and at least one round")
    settle_allocator()
    workers, rounds = options.workers, options.rounds
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tables = {
            "without-limits": sizes(folder, workers, rounds, "-DFSM_SHARE=1"),
            "sizes": sizes(folder, workers, rounds),
            "speed-ups": speed_ups(workers, rounds),
            "peers": beside_peers(workers),
        }
        for block, rows in tables.items():
            lines = list(record.markdown(rows))
            print(*lines, "", sep="\n", flush=True)
            if options.record:
                record.put("docs/threading.md", block, lines)
    if options.record:
        words = record.machine_in_words(record.machine())
        record.put("docs/threading.md", "machine", [words, f"{options.workers} workers."])


if __name__ == "__main__":
    main()
