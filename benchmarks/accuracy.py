"""Print the worst error of fastsoftmax and of every installed peer, in ULP of the exact result.

    python benchmarks/accuracy.py [--record]

The exact results are those of the tests: tests/oracle.py, in long double or with mpmath. --record
puts the tables into docs/accuracy.md.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

import record
from contestants import able, contestants
from fastsoftmax._selfcheck import FUNCTIONS
from fastsoftmax._timing import Contestant, Work

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))

import logits
import oracle

DTYPES = ("float32", "float64", "float16")

ROWS = (6, 1000)
LONG_ROW = (1, 1_000_000)

# What the table calls the case, the shape, and the names of its logits in tests/logits.py.
CASES = (
    *((f"N(0, {s}²)", ROWS, (f"normal {s}",)) for s in ("0.001", "0.01", "0.1", "1", "10")),
    *((f"N(0, {s}²)", ROWS, (f"normal {s}",)) for s in ("100", "1000")),
    ("constant rows", ROWS, ("all zero", "all one third", "all -12345.678")),
    (
        "one dominant element",
        ROWS,
        ("one dominates by 10", "one dominates by 40", "one dominates by 700"),
    ),
    ("rows sorted up", ROWS, ("ascending",)),
    ("rows sorted down", ROWS, ("descending",)),
    ("around ±1e4", ROWS, ("around 1e4", "around -1e4")),
    ("around ±1e30", ROWS, ("around 1e30", "around -1e30")),
    ("1e6 elements, N(0, 1)", LONG_ROW, ("normal 1",)),
    ("1e6 elements, N(0, 0.001²)", LONG_ROW, ("normal 0.001",)),
    ("1e6 elements, equal", LONG_ROW, ("all one third",)),
)


def worst_error(contestant: Contestant, function: str, x: np.ndarray, exact: oracle.Exact) -> float:
    """In ULP; infinite where a result is NaN, or infinite and should not be."""
    with np.errstate(all="ignore"):
        got = np.asarray(contestant(function, x, -1)())
    value = getattr(exact, function)
    unit = oracle.logsumexp_unit(x, value) if function == "logsumexp" else None
    return float(oracle.ulp_error(got, value, unit).max())


def table(everyone: dict[str, Contestant], dtype: str) -> dict[str, dict[str, dict[str, float]]]:
    """The worst errors, by function, case and contestant."""
    errors: dict[str, dict[str, dict[str, float]]] = {function: {} for function in FUNCTIONS}
    for case, shape, names in CASES:
        print(dtype, case, "...", file=sys.stderr, flush=True)
        for name in names:
            with np.errstate(over="ignore"):
                x = logits.make(name, shape, dtype)
            if not np.isfinite(x).all():  # 1e30 is not a float16
                continue
            exact = oracle.exact(x)
            for function in FUNCTIONS:
                present = able(everyone, Work(function, dtype, shape, -1))
                row = errors[function].setdefault(case, dict.fromkeys(present, 0.0))
                for peer, contestant in present.items():
                    row[peer] = max(row[peer], worst_error(contestant, function, x, exact))
    return errors


def lines(everyone: dict[str, Contestant]) -> Iterator[str]:
    for dtype in DTYPES:
        for function, errors in table(everyone, dtype).items():
            peers = list(next(iter(errors.values())))
            yield f"### {function}, {dtype}"
            yield ""
            rows = [
                [case, *(f"{error:.3g}" for error in row.values())] for case, row in errors.items()
            ]
            yield from record.markdown([["logits", *peers], *rows])
            yield ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--record", action="store_true", help="put the tables into docs/")
    options = parser.parse_args()
    words = record.machine_in_words(record.machine())
    tables = [words, "", *lines(contestants())]
    if options.record:
        record.put("docs/accuracy.md", "accuracy", tables)
    print(*tables, sep="\n")


if __name__ == "__main__":
    main()
