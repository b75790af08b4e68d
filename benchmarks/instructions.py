"""Count the instructions of the kernels with callgrind, and compare with the recorded counts.

    python benchmarks/instructions.py [--record]

For machines too noisy to time a small change on: the counts depend on the compiler and the code
alone. Needs a C compiler (CC, or cc) and valgrind, which knows no AVX-512 (as of 3.19), so that the
counts are of the other backends. --record makes the new counts those to compare with.
"""

import argparse
import json
import math
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import record
from fastsoftmax._selfcheck import DTYPES, FUNCTIONS

RECORDED = record.ROOT / "docs/instructions.json"

FLAGS = ("-O3", "-std=c11", "-ffp-contract=off")  # those of setup.py

BACKENDS = ("avx2", "scalar")

# outer, length, inner
SHAPES = (
    (1000, 3, 1),
    (1000, 10, 1),
    (64, 1000, 1),
    (1, 100_000, 1),
    (1, 1000, 128),
    (4, 1000, 49),
)


class Case(NamedTuple):
    backend: str
    function: str
    dtype: str
    shape: tuple[int, int, int]

    def __str__(self) -> str:
        return f"{self.backend} {self.function} {self.dtype} {self.shape}"


CASES = tuple(
    Case(backend, function, dtype, shape)
    for backend in BACKENDS
    for dtype in DTYPES
    for function in FUNCTIONS
    for shape in SHAPES
)


def build(compiler: list[str], program: Path) -> None:
    src = record.ROOT / "src"
    sources = [*src.glob("*.c"), *src.glob("isa/*.c"), record.ROOT / "benchmarks/instructions.c"]
    subprocess.run(
        [*compiler, *FLAGS, f"-I{src}", *map(str, sorted(sources)), "-lm", "-o", str(program)],
        check=True,
    )


def count(program: Path, case: Case, output: Path) -> int:
    """The instructions of one call of the kernel."""
    subprocess.run(
        [
            "valgrind",
            "--tool=callgrind",
            "--quiet",
            "--toggle-collect=counted",
            f"--callgrind-out-file={output}",
            str(program),
            *case[:3],
            *map(str, case.shape),
        ],
        check=True,
    )
    found = re.search(r"^(?:summary|totals): (\d+)", output.read_text(), re.MULTILINE)
    if not found or int(found[1]) == 0:
        raise RuntimeError(f"callgrind counted nothing for {case}")
    return int(found[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help="keep the counts in docs/")
    options = parser.parse_args()
    if not shutil.which("valgrind"):
        parser.error("valgrind is not installed")

    compiler = shlex.split(os.environ.get("CC", "cc"))
    version = subprocess.run(
        [*compiler, "--version"], check=True, capture_output=True, text=True
    ).stdout.splitlines()[0]
    before = json.loads(RECORDED.read_text()) if RECORDED.exists() else {"counts": {}}
    if before["counts"] and before["compiler"] != version:
        print(f"The recorded counts are of {before['compiler']}, not {version}.", file=sys.stderr)

    counts = {}
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "instructions")
        build(compiler, program)
        for case in CASES:
            print(case, "...", file=sys.stderr, flush=True)
            counts[str(case)] = count(program, case, Path(folder, "counts"))

    rows = [["backend, function, dtype, shape", "instructions", "for each element", "/ recorded"]]
    for case in CASES:
        number = counts[str(case)]
        old = before["counts"].get(str(case))
        rows.append(
            [
                str(case),
                f"{number}",
                f"{number / math.prod(case.shape):.3f}",
                f"{number / old:.3f}" if old else "–",
            ]
        )
    print(f"Compiled by {version}", "", *record.markdown(rows), sep="\n")
    if options.record:
        report = {"compiler": version, "counts": counts}
        RECORDED.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
