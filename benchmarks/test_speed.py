"""Each contestant at each piece of work, for pytest-benchmark; one group compares the contestants.

pytest benchmarks                         # time all
pytest benchmarks -k "float32 and scipy"  # some
pytest benchmarks --benchmark-disable     # check the results alone
"""

import pytest

from contestants import CONTESTANTS, check
from fastsoftmax._timing import WORKS, Work, settle_allocator


@pytest.fixture(scope="session", autouse=True)
def settled_allocator():
    settle_allocator()


@pytest.mark.benchmark(max_time=0.2, warmup=True, warmup_iterations=1)
@pytest.mark.parametrize("name", CONTESTANTS)
@pytest.mark.parametrize("work", WORKS, ids=str)
def test_speed(benchmark, work: Work, name: str):
    check(name, work)
    benchmark.group = str(work)
    benchmark(CONTESTANTS[name](work.function, work.logits(), work.axis))
