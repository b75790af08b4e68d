"""Time whole calls on 10 float32 values beside that of numpy.exp, which does less with each.

    python benchmarks/calls.py

What such a call costs is the way to the kernel: the arguments, the checks, the new array. The
statements take turns within one process; a figure is the least of all turns, as the rest is what
else the machine did.
"""

import timeit
from collections.abc import Iterator

import numpy as np

import fastsoftmax
import record
import targets

CALLS = 1000
"""In a turn: few enough to last less than what disturbs them."""


def nanoseconds(turns: int) -> dict[str, float]:
    """The least time of one call, by statement."""
    x = np.random.default_rng(0).standard_normal(10, np.float32)
    names = {
        "exp": np.exp,
        "softmax": fastsoftmax.softmax,
        "log_softmax": fastsoftmax.log_softmax,
        "logsumexp": fastsoftmax.logsumexp,
        "x": x,
        "out": np.empty_like(x),
        "one": np.empty(1, x.dtype),
        "where": x > -1,
        "values": x.tolist(),
        "every_other": np.repeat(x, 2)[::2],
    }
    timers = {statement: timeit.Timer(statement, globals=names) for statement in targets.CALLS}
    least = dict.fromkeys(timers, np.inf)
    for _ in range(turns):
        for statement, timer in timers.items():
            least[statement] = min(least[statement], timer.timeit(CALLS) / CALLS * 1e9)
    return least


def table(least: dict[str, float]) -> Iterator[list[str]]:
    """Rows of text, the header first: times, and their ratios to that of the first statement."""
    reference = next(iter(least))
    yield ["call", "ns", f"/ {reference}", "target"]
    for statement, time in least.items():
        ratio, most = time / least[reference], targets.CALLS[statement]
        verdict = "–" if most is None else f"{most:.2f} {'met' if ratio <= most else 'missed'}"
        yield [statement, f"{time:.0f}", f"{ratio:.2f}", verdict]


if __name__ == "__main__":
    print(*record.markdown(table(nanoseconds(turns=500))), sep="\n")
