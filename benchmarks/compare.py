"""Time fastsoftmax beside every installed peer, and print who reaches which target.

    python benchmarks/compare.py [--threads N] [--json FILE] [--record]

The contestants take turns within one process, so that the ratios hold even on a busy machine; all
figures are medians. Arrays are written where the contestant can write to a given place; vectors
are timed as whole calls. --record puts the figures, the tables and the picture into the documents.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import fastsoftmax
import picture
import record
import targets
from contestants import able, check, contestants
from fastsoftmax._timing import WORKS, Contestant, Timing, Work, measure
from peers import result_array

COMPARED = tuple(dict.fromkeys((*WORKS, *(target.work for target in targets.TARGETS))))

ROW_LENGTHS = tuple(
    Work("softmax", "float32", (max(1, 2**17 // length), length), -1)  # at least 1 MiB in and out
    for exponent in range(7)
    for length in (3 * 10**exponent, 10 ** (exponent + 1))
    if length <= 3_000_000
)

SHOWN_SHAPES = tuple(
    dict.fromkeys(
        (target.work.shape, target.work.axis)
        for target in targets.TARGETS
        if target.work[:2] == ("softmax", "float32")
    )
)


def copy(function: str, x: Any, axis: int) -> Callable[[], Any]:
    """What no function that writes its result can beat: reading `x` and writing as much."""
    out = result_array("softmax", x, axis)
    return x.copy if out is None else lambda: np.copyto(out, x)


def compare(everyone: dict[str, Contestant], works: Sequence[Work]) -> Iterator[Timing]:
    for work in works:
        print(work, "...", file=sys.stderr, flush=True)
        present = able(everyone, work)
        for name, contestant in present.items():
            check(name, contestant, work)
        yield measure({**present, "copy": copy}, work, seconds=2)


def per_element(timings: Sequence[Timing]) -> Iterator[list[str]]:
    """Rows of text: the time of each contestant for one element of x, in ns."""
    names = list(dict.fromkeys(name for timing in timings for name in timing.seconds))
    yield ["ns per element of x", *names]
    for work, seconds in timings:
        size = math.prod(work.shape)
        times = (seconds[name] / size * 1e9 if name in seconds else None for name in names)
        yield [str(work), *("–" if time is None else f"{time:.3g}" for time in times)]


def shown(timings: Sequence[Timing]) -> list[Timing]:
    """The part of the comparison that the README has."""
    works = [Work("softmax", "float32", *shape_and_axis) for shape_and_axis in SHOWN_SHAPES]
    slow = ("fastsoftmax-scalar", "fastsoftmax-numpy")
    return [
        Timing(work, {name: time for name, time in seconds.items() if name not in slow})
        for work, seconds in timings
        if work in works
    ]


def put_in_documents(
    machine: dict[str, Any], timings: Sequence[Timing], row_lengths: Sequence[Timing]
) -> None:
    """The tables into README.md and docs/performance.md, and the picture beside them."""
    words = record.machine_in_words(machine)
    record.put("docs/performance.md", "targets", record.markdown(targets.table(timings)))
    record.put("docs/performance.md", "times", record.markdown(per_element(timings)))
    record.put("docs/performance.md", "row lengths", record.markdown(per_element(row_lengths)))
    record.put("docs/performance.md", "machine", [words])
    record.put("README.md", "speed", [words, "", *record.markdown(per_element(shown(timings)))])
    picture.save(row_lengths, record.ROOT / "docs/speed.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--threads", type=int, default=1, help="of fastsoftmax and of each peer (1)"
    )
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all figures there")
    parser.add_argument("--record", action="store_true", help="write all of it into docs/")
    options = parser.parse_args()
    if options.threads < 1:
        parser.error(f"--threads must be at least 1, not {options.threads}")
    if options.record and options.threads != 1:
        parser.error("--record is for one thread, which is what the documents say")

    everyone = contestants(options.threads)
    with fastsoftmax.set_workers(options.threads):
        timings = list(compare(everyone, COMPARED))
        row_lengths = list(compare(everyone, ROW_LENGTHS))
    report = {
        "machine": record.machine(),
        "threads": options.threads,
        **{
            part: [{"work": t.work._asdict(), "seconds": t.seconds} for t in part_timings]
            for part, part_timings in (("timings", timings), ("row_lengths", row_lengths))
        },
    }
    files = [options.json] if options.json else []
    if options.record:
        files.append(record.ROOT / "docs/performance.json")
    for file in files:
        file.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    if options.record:
        put_in_documents(report["machine"], timings, row_lengths)
    for rows in (targets.table(timings), per_element(timings), per_element(row_lengths)):
        print(*record.markdown(rows), "", sep="\n")


if __name__ == "__main__":
    main()
