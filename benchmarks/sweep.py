"""Print the worst error of each compiled backend over every finite float32 x.

    python benchmarks/sweep.py [--every N] [--record]

The rows are [x, 0], and 1023 neighbouring values of x with a 0, so that the exponential of each x
is taken by the ways of short and of long rows. The reference is float64: against half a ULP of
float32, its errors are nothing. A sweep takes about half an hour; --every N takes only each Nth
block of 65472 neighbouring values, for a first look. --record puts the table into docs/accuracy.md.
"""

import argparse
import sys
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

import record
from fastsoftmax import _backend
from fastsoftmax._functions import Functions
from fastsoftmax._selfcheck import ULP_BOUND

LONG = 1024
BLOCK = (LONG - 1) * 64
LARGEST = np.float32(np.finfo(np.float32).max).view(np.uint32)
SIGN = np.uint32(1 << 31)


class Worst(NamedTuple):
    ulp: float = -1.0
    x: float = 0.0
    """The first element of the row where that is."""


def blocks(every: int) -> Iterator[np.ndarray]:
    """All finite float32, in blocks; the last block of each sign repeats the largest value."""
    for sign in (np.uint32(0), SIGN):
        for start in range(0, int(LARGEST) + 1, BLOCK * every):
            bits = np.arange(start, start + BLOCK, dtype=np.uint32)
            yield (np.minimum(bits, LARGEST) | sign).view(np.float32)


def with_zero(x: np.ndarray, length: int) -> np.ndarray:
    rows = x.reshape(-1, length - 1)
    return np.concatenate((rows, np.zeros((len(rows), 1), np.float32)), axis=1)


def exact(rows: np.ndarray) -> dict[str, np.ndarray]:
    rows = rows.astype(np.float64)
    # The zero is at the end; before it, magnitudes ascend.
    place_of_largest = -1 if np.signbit(rows[0, 0]) else -2
    largest = rows[:, place_of_largest, np.newaxis]
    terms = np.exp(rows - largest)
    terms[:, place_of_largest] = 0
    rest = terms.sum(axis=1, keepdims=True)
    terms[:, place_of_largest] = 1
    terms /= 1 + rest
    return {"softmax": terms, "logsumexp": (largest + np.log1p(rest))[:, 0]}


def ulp(value: np.ndarray) -> np.ndarray:
    """The distance between neighbouring float32 in the binade of `value`."""
    exponent_alone = value.view(np.int64) & np.int64(0x7FF << 52)
    power = exponent_alone.view(np.float64)
    return np.maximum(power, 2.0**-126) * 2.0**-23


def sweep(every: int) -> dict[tuple[str, str, int], Worst]:
    """The worst error by backend, function and length of the rows."""
    functions = {
        name: Functions(_backend.get(name)) for name in _backend.available() if name != "numpy"
    }
    found: dict[tuple[str, str, int], Worst] = {}
    for done, x in enumerate(blocks(every)):
        for length in (2, LONG):
            rows = with_zero(x, length)
            for function, value in exact(rows).items():
                unit = ulp(value)
                for name, api in functions.items():
                    error = np.abs(getattr(api, function)(rows, -1) - value)
                    error /= unit
                    # argmax takes a NaN for the largest of all.
                    place = np.unravel_index(error.argmax(), error.shape)
                    worst = float(np.nan_to_num(error[place], nan=np.inf))
                    key = name, function, length
                    if worst > found.get(key, Worst()).ulp:
                        found[key] = Worst(worst, float(rows[place[0], 0]))
        if done % 4096 == 0:
            print(f"at {x[0]:g} ...", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--every", metavar="N", type=int, default=1, help="each Nth block alone")
    parser.add_argument("--record", action="store_true", help="put the table into docs/")
    options = parser.parse_args()
    if options.every < 1:
        parser.error(f"--every must be at least 1, not {options.every}")
    found = sweep(options.every)
    rows = [["backend, function", "elements of a row", "worst error [ULP]", "first x of that row"]]
    rows += [
        [f"{name}, {function}", str(length), f"{worst.ulp:.3f}", f"{worst.x:.9g}"]
        for (name, function, length), worst in found.items()
    ]
    swept = "every finite x" if options.every == 1 else f"one block of {BLOCK} x in {options.every}"
    table = [f"Swept: {swept}.", "", *record.markdown(rows)]
    if options.record:
        record.put("docs/accuracy.md", "sweep", table)
    print(*table, sep="\n")
    if any(worst.ulp > ULP_BOUND for worst in found.values()):
        sys.exit(f"above the bound of {ULP_BOUND:g} ULP")


if __name__ == "__main__":
    main()
