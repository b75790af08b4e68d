"""Print our best backend's times and their ratios to those of every other contestant.

    python benchmarks/compare.py

The contestants take turns within one process, so that the ratios hold even on a busy machine.
"""

from contestants import CONTESTANTS, check
from fastsoftmax._timing import WORKS, Timing, Work, measure, table


def compare(work: Work) -> Timing:
    for name in CONTESTANTS:
        check(name, work)
    return measure(CONTESTANTS, work, seconds=1)


if __name__ == "__main__":
    for line in table(map(compare, WORKS)):
        print(line, flush=True)
