"""Each contestant at each piece of work, for pytest-benchmark; one group compares the contestants.

pytest benchmarks                         # time all
pytest benchmarks -k "float32 and scipy"  # some
pytest benchmarks --benchmark-disable     # check the results alone
"""

import pytest

import fastsoftmax
from contestants import able, check, contestants
from fastsoftmax._timing import WORKS, Work, settle_allocator

CONTESTANTS = contestants()


@pytest.fixture(scope="session", autouse=True)
def settled():
    settle_allocator()
    with fastsoftmax.set_workers(1):  # as the peers
        yield


@pytest.mark.benchmark(max_time=0.2, warmup=True, warmup_iterations=1)
@pytest.mark.parametrize(
    ("work", "name"),
    [(work, name) for work in WORKS for name in able(CONTESTANTS, work)],
    ids=str,
)
def test_speed(benchmark, work: Work, name: str):
    contestant = CONTESTANTS[name]
    check(name, contestant, work)
    benchmark.group = str(work)
    benchmark(contestant(work.function, work.logits(), work.axis))
