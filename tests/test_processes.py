"""The functions in other processes and in several threads."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import child
import fastsoftmax
from fastsoftmax import _backend

FUNCTIONS = (fastsoftmax.softmax, fastsoftmax.log_softmax, fastsoftmax.logsumexp)


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_a_function_is_pickled_by_reference(function):
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(function, protocol)) == function
    assert copy.deepcopy(function) == function


IN_ANOTHER_PROCESS = """
import pickle, sys
function = pickle.loads(bytes.fromhex(sys.argv[1]))
import fastsoftmax
assert function == fastsoftmax.softmax
print(fastsoftmax.show_config(mode="dicts")["backend"], function([0.0, 0.0])[0])
"""


@pytest.mark.parametrize("name", _backend.available())
def test_a_pickled_function_works_on_the_backend_of_where_it_is_loaded(name):
    pickled = pickle.dumps(fastsoftmax.softmax).hex()
    shown = child.output("-c", IN_ANOTHER_PROCESS, pickled, FASTSOFTMAX_BACKEND=name)
    assert shown.split() == [name, "0.5"]


@pytest.mark.parametrize("shape", [(50, 7), (30, 1000), (100, 10, 30)], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_threads_do_not_disturb_each_other(api, dtype, shape):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(0.0, 5.0, shape).astype(dtype) for _ in range(8)]

    def results(x):
        out = np.empty_like(x)
        return (
            api.softmax(x, -1),
            api.log_softmax(x, 0, out=out),
            api.logsumexp(x, 1),
            api.softmax(x, 1, where=x > 0, temperature=2.0),
        )

    alone = [results(x) for x in arrays]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(results, arrays * 10))
    for i, of_one in enumerate(together):
        for got, wanted in zip(of_one, alone[i % len(arrays)], strict=True):
            np.testing.assert_array_equal(got, wanted)


def test_threads_may_share_their_input(api):
    x = np.random.default_rng(0).normal(0.0, 5.0, (100, 1000))
    wanted = api.softmax(x, -1)
    with ThreadPoolExecutor(4) as pool:
        for got in pool.map(lambda _: api.softmax(x, -1), range(20)):
            np.testing.assert_array_equal(got, wanted)
