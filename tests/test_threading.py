"""Several workers: the same bits, within every limit, and in whatever process or thread."""

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
import pytest
import scipy.special
from threadpoolctl import threadpool_info, threadpool_limits

import child
import fastsoftmax
from fastsoftmax import _backend, _workers

FUNCTIONS = ("softmax", "log_softmax", "logsumexp")
COMPILED = tuple(name for name in _backend.available() if name != "numpy")

HAS_OPENMP = any(library["user_api"] == "openmp" for library in threadpool_info())
needs_kernels = pytest.mark.skipif(not COMPILED, reason="needs the compiled kernels")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
needs_proc = pytest.mark.skipif(
    not COMPILED or not Path("/proc/self/task").is_dir(),
    reason="needs the compiled kernels, and to see how many threads they start",
)

# For new processes: an array, its softmax by one worker, and the number of threads there are.
START = """
import os, signal, sys, time
import numpy as np
import fastsoftmax

def threads():
    return len(os.listdir("/proc/self/task"))

x = np.random.default_rng(0).normal(0.0, 5.0, (1400, 1000)).astype("f4")
alone = fastsoftmax.softmax(x, -1, workers=1)

def is_right(**options):
    return np.array_equal(fastsoftmax.softmax(x, -1, **options), alone)
"""


def output(code: str, **environment: str) -> list[str]:
    """What the code prints after START, where no other library has threads."""
    alone = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    return child.output("-c", START + code, **alone | environment).split()


# Which workers there are


def test_set_workers_holds_within_and_nests():
    before = fastsoftmax.get_workers()
    with fastsoftmax.set_workers(3):
        assert fastsoftmax.get_workers() == 3
        with fastsoftmax.set_workers(5):
            assert fastsoftmax.get_workers() == 5
        assert fastsoftmax.get_workers() == 3
    assert fastsoftmax.get_workers() == before


def test_set_workers_ends_with_an_exception():
    before = fastsoftmax.get_workers()
    with pytest.raises(ZeroDivisionError), fastsoftmax.set_workers(before + 1):
        raise ZeroDivisionError
    assert fastsoftmax.get_workers() == before


def test_negative_workers_count_back_from_the_cpus():
    cpus = _workers.available_cpus()
    for back in range(1, cpus + 1):
        with fastsoftmax.set_workers(-back):
            assert fastsoftmax.get_workers() == cpus + 1 - back


@pytest.mark.parametrize(
    ("workers", "exception", "message"),
    [
        (0, ValueError, "workers must not be 0"),
        (-(10**6), ValueError, "workers is -1000000, need at least -"),
        (1.0, TypeError, "workers must be an integer, not float"),
        ("2", TypeError, "workers must be an integer, not str"),
        (None, TypeError, "workers must be an integer, not NoneType"),
    ],
)
def test_bad_workers(workers, exception, message):
    before = fastsoftmax.get_workers()
    with pytest.raises(exception, match=message), fastsoftmax.set_workers(workers):
        pass
    assert fastsoftmax.get_workers() == before


def test_set_workers_holds_for_one_thread_and_one_task():
    async def task(workers):
        with fastsoftmax.set_workers(workers):
            await asyncio.sleep(0)  # here the other one runs
            return fastsoftmax.get_workers()

    async def both():
        return await asyncio.gather(task(3), task(4))

    assert asyncio.run(both()) == [3, 4]

    def within(workers):
        with fastsoftmax.set_workers(workers):
            return fastsoftmax.get_workers()

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(within, [2, 3, 4, 5] * 10)) == [2, 3, 4, 5] * 10


@pytest.mark.parametrize(
    ("environment", "workers"),
    [
        ({"FASTSOFTMAX_NUM_THREADS": "3"}, 3),
        ({"FASTSOFTMAX_NUM_THREADS": "3", "OMP_NUM_THREADS": "5"}, 3),
        ({"FASTSOFTMAX_NUM_THREADS": "", "OMP_NUM_THREADS": "5"}, 5),
        ({"FASTSOFTMAX_NUM_THREADS": "-1", "OMP_NUM_THREADS": "5"}, _workers.available_cpus()),
        ({"OMP_NUM_THREADS": "4,2"}, 4),
        ({"OMP_NUM_THREADS": ""}, _workers.available_cpus()),
    ],
    ids=str,
)
def test_the_environment_says_how_many(environment, workers):
    code = "import fastsoftmax; print(fastsoftmax.get_workers())"
    without = {"OMP_NUM_THREADS": ""}
    assert child.output("-c", code, **without | environment) == f"{workers}\n"


@pytest.mark.parametrize("text", ["many", "-1", "2.5", "9" * 5000, "\u0663", ""])
def test_what_openmp_would_not_understand_is_left_to_it(text):
    code = "import fastsoftmax; from fastsoftmax import _workers; print(_workers._DEFAULT)"
    assert child.output("-c", code, OMP_NUM_THREADS=text) == "None\n"


@pytest.mark.parametrize("text", ["0", "many", "-1000000", "1.5"])
def test_the_environment_is_not_misunderstood(text):
    done = child.run("-c", "import fastsoftmax", FASTSOFTMAX_NUM_THREADS=text)
    assert done.returncode != 0
    assert "ValueError: FASTSOFTMAX_NUM_THREADS" in done.stderr


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "cpus"),
    [
        ({}, None),
        ({"proc/self/cgroup": "0::/\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        ({"proc/self/cgroup": "?\n\n0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        ({"proc/self/cgroup": "?\n\n", "sys/fs/cgroup/cpu.max": "200000 100000\n"}, None),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "150000 100000\n"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "5000 100000\n"}, 1),
        (  # the group has less than the one above
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/a/b/cpu.max": "300000 100000\n",
            },
            3,
        ),
        (  # and more than it
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/cpu.max": "100000 100000\n",
                "sys/fs/cgroup/a/b/cpu.max": "300000 100000\n",
            },
            1,
        ),
        (  # the path is that outside of the container
            {
                "proc/self/cgroup": "0::/docker/123\n",
                "sys/fs/cgroup/cpu.max": "300000 100000\n",
            },
            3,
        ),
        (
            {
                "proc/self/cgroup": "5:cpu,cpuacct:/a\n3:memory:/b\n0::/\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_quota_us": "250000\n",
                "sys/fs/cgroup/cpu/a/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            3,
        ),
    ],
)
def test_limits_of_containers(tmp_path, files, cpus):
    assert _workers.cpu_quota(write(tmp_path, files)) == cpus


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs an affinity to set")
@needs_proc
@pytest.mark.parametrize("is_before", [True, False])
def test_a_process_that_may_use_one_cpu_has_one_worker(is_before):
    restrict = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])\n"
    code = "assert is_right()\nprint(fastsoftmax.get_workers(), threads())"
    code = restrict + START + code if is_before else START + restrict + code
    environment = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": ""}
    assert child.output("-c", code, **environment).split() == ["1", "1"]


# What they compute


@pytest.fixture
def many_threads():
    """OpenMP's limit lifted, which is the number of processors otherwise."""
    with threadpool_limits(8, "openmp"):
        yield


SHAPES = (
    # shape, axis
    ((500, 1000), -1),
    ((40_001, 10), -1),
    ((100_003, 3), -1),
    ((3, 200_000), -1),
    ((5, 60_000), 1),
    ((1, 900_000), -1),
    ((1000, 601), 0),
    ((1001, 129), 0),
    ((600, 1000), 0),
    ((20_000, 64), 0),
    ((70_001, 9), 0),
    ((3, 300, 401), 1),
    ((33, 500, 49), 1),
    ((2, 2000, 16, 10), 1),
)


@pytest.fixture
def threaded(api):
    """The public functions on a backend that has threads."""
    if api._kernels.name == "numpy":
        pytest.skip("it has one thread, whatever the number of workers")
    return api


@pytest.mark.parametrize(("shape", "axis"), SHAPES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_any_number_of_workers_gives_the_same_bits(threaded, many_threads, dtype, shape, axis):
    rng = np.random.default_rng(0)
    x = rng.normal(0.0, 5.0, shape).astype(dtype)
    where = rng.random(shape) < 0.8
    temperature = rng.uniform(0.5, 2.0, np.max(x, axis, keepdims=True).shape)
    padded = np.zeros((*shape[:-1], shape[-1] + 3), dtype)[..., 1:-2]
    padded[...] = x
    hostile = x.copy()
    hostile.flat[:: x.size // 7] = (np.inf, -np.inf, np.nan, 1e30, -1e30, 0.0, 80.0, -80.0)
    for function in FUNCTIONS:
        cases = [(x, {}), (padded, {}), (hostile, {}), (x, {"where": where})]
        if function != "logsumexp":
            cases.append((x, {"temperature": temperature}))
        for logits, options in cases:
            call = getattr(threaded, function)
            alone = call(logits, axis, workers=1, **options)
            for workers in (2, 3, 7):
                got = call(logits, axis, workers=workers, **options)
                np.testing.assert_array_equal(got, alone)
    in_place = x.copy()
    threaded.softmax(in_place, axis, out=in_place, workers=3)
    np.testing.assert_array_equal(in_place, threaded.softmax(x, axis, workers=1))


def calls(x, axis) -> dict[str, tuple[str, dict]]:
    """Calls of the functions of classifiers: for each a function and its arguments."""
    rng = np.random.default_rng(1)
    grad = rng.normal(0.0, 1.0, x.shape).astype(x.dtype)
    targets = rng.random(x.shape).astype(x.dtype)
    classes = x.shape[axis]
    labels = rng.integers(0, classes, np.delete(x.shape, axis))
    ignored = np.where(rng.random(labels.shape) < 0.1, -100, labels)
    weight = rng.uniform(0.5, 2.0, classes)
    logits = {"logits": x, "axis": axis}
    with_grad = {"return_grad": True, "reduction": "none"}
    found = {
        "predict": ("predict", logits),
        "predict, confidence": ("predict", logits | {"return_confidence": True}),
        "top_k": ("top_k", logits | {"k": 3}),
        "top_k, log": ("top_k", logits | {"k": min(20, classes), "log": True}),
        "softmax_logsumexp": ("softmax_logsumexp", {"x": x, "axis": axis}),
        "softmax_logsumexp, where": (
            "softmax_logsumexp",
            {"x": x, "axis": axis, "where": rng.random(x.shape) < 0.8},
        ),
        "cross_entropy, mean": (
            "cross_entropy",
            logits | {"target": labels, "return_grad": True},
        ),
        "cross_entropy, loss alone": (
            "cross_entropy",
            logits | {"target": labels, "reduction": "none"},
        ),
        "cross_entropy, weights": (
            "cross_entropy",
            logits | with_grad | {"target": ignored, "weight": weight},
        ),
        "cross_entropy, smoothing": (
            "cross_entropy",
            logits | with_grad | {"target": ignored, "label_smoothing": 0.1},
        ),
        "cross_entropy, probabilities": (
            "cross_entropy",
            logits | with_grad | {"target": targets, "weight": weight},
        ),
        "logsumexp, weights": ("logsumexp", {"a": x, "axis": axis, "b": targets}),
        "softmax_backward": ("softmax_backward", {"grad": grad, "y": targets, "axis": axis}),
        "log_softmax_backward": (
            "log_softmax_backward",
            {"grad": grad, "log_y": -abs(x), "axis": axis},
        ),
    }
    if x.ndim == 2 and axis != 0:
        found["softmax_grad_hess"] = ("softmax_grad_hess", {"logits": x, "target": labels})
        found["softmax_grad_hess, weights"] = (
            "softmax_grad_hess",
            {"logits": x, "target": labels, "weight": rng.uniform(0.5, 2.0, len(x)), "factor": 2.0},
        )
    return found


def assert_same(got, wanted):
    """Arrays, or tuples of them."""
    got, wanted = (a if isinstance(a, tuple) else (a,) for a in (got, wanted))
    for a, b in zip(got, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("shape", "axis", "order"),
    [
        ((600, 1000), -1, "C"),
        ((1000, 601), -1, "F"),
        ((60_001, 10), -1, "C"),
        ((200_003, 3), -1, "F"),
        ((1_100, 601), 0, "C"),
        ((3, 500, 401), 1, "C"),
        ((33, 400, 49), 1, "C"),
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_any_number_of_workers_gives_the_same_bits_to_classifiers(
    threaded, many_threads, dtype, shape, axis, order
):
    x = np.random.default_rng(0).normal(0.0, 5.0, shape).astype(dtype, order=order)
    x.flat[:: x.size // 7] = (np.inf, -np.inf, np.nan, 1e30, -1e30, 0.0, 80.0, -80.0)
    for function, arguments in calls(x, axis).values():
        call = getattr(threaded, function)
        alone = call(**arguments, workers=1)
        for workers in (2, 3, 7):
            assert_same(call(**arguments, workers=workers), alone)


@pytest.mark.parametrize(
    ("shape", "axis"), [((4096, 2048), -1), ((800_000, 10), -1), ((2048, 4097), 0)], ids=str
)
def test_any_number_of_workers_predicts_the_same(threaded, many_threads, shape, axis):
    """Of larger arrays, below which it takes one."""
    x = np.random.default_rng(0).normal(0.0, 5.0, shape).astype("float32")
    for workers in (1, 2, 7):
        np.testing.assert_array_equal(threaded.predict(x, axis, workers=workers), x.argmax(axis))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_no_column_is_left_to_a_worker_alone(threaded, dtype):
    """A cache line has 32, 16 or 8 of them, so that one is left over from each of these widths."""
    for columns in (129, 257):
        x = np.random.default_rng(0).normal(0.0, 5.0, (5 * 2**20 // columns, columns))
        x = x.astype(dtype)
        for function in FUNCTIONS:
            call = getattr(threaded, function)
            alone = call(x, 0, workers=1)
            for workers in (columns // 32 + 1, columns // 16 + 1, columns // 8 + 1):
                with threadpool_limits(workers, "openmp"):
                    np.testing.assert_array_equal(call(x, 0, workers=workers), alone)


@pytest.mark.parametrize("columns", [17, 33, 49])
def test_no_column_of_a_classifier_is_left_to_a_worker_alone(threaded, many_threads, columns):
    x = np.random.default_rng(0).normal(0.0, 5.0, (2**20 // columns, columns)).astype("float32")
    for case in ("predict, confidence", "softmax_logsumexp", "softmax_backward"):
        function, arguments = calls(x, 0)[case]
        call = getattr(threaded, function)
        assert_same(call(**arguments, workers=columns // 16 + 1), call(**arguments, workers=1))


def test_workers_compute_what_scipy_does(api, many_threads):
    for shape, axis in SHAPES:
        x = np.random.default_rng(0).normal(0.0, 5.0, shape)
        for function in FUNCTIONS:
            got = getattr(api, function)(x, axis, workers=3)
            wanted = getattr(scipy.special, function)(x, axis)
            # SciPy's logarithms near 0 have few right digits.
            np.testing.assert_allclose(got, wanted, 1e-12, 1e-14, err_msg=f"{function} {shape}")


@needs_kernels
@pytest.mark.parametrize("seed", range(30))
def test_every_slice_is_done_once_whatever_the_extents(many_threads, seed):
    """Results in place of canaries, and beside them nothing; by a formula of NumPy's."""
    rng = np.random.default_rng(seed)
    while True:
        shape = tuple(int(2 ** rng.uniform(0, most)) for most in (14, 14, 14))
        if 2**18 <= np.prod(shape) < 2**21:
            break
    x = rng.normal(0.0, 3.0, shape)
    beside = np.full((shape[0] + 2, shape[1], shape[2] + 2), 42.0)
    out = beside[1:-1, :, 1:-1]
    fastsoftmax.softmax(x, 1, out=out, workers=int(rng.integers(2, 9)))
    terms = np.exp(x)
    np.testing.assert_allclose(out, terms / terms.sum(1, keepdims=True), rtol=1e-12)
    out[...] = 42.0
    assert np.all(beside == 42.0)


@needs_kernels
@pytest.mark.parametrize("seed", range(20))
def test_every_slice_of_a_classifier_is_done_once_whatever_the_extents(many_threads, seed):
    """As above, of results of each kind: elements, slices, and the largest few."""
    rng = np.random.default_rng(seed)
    while True:
        shape = tuple(int(2 ** rng.uniform(0, most)) for most in (14, 14, 14))
        if 2**18 <= np.prod(shape) < 2**20:
            break
    workers = int(rng.integers(2, 9))
    x, y = rng.normal(0.0, 3.0, shape), rng.random(shape)
    beside = np.full((shape[0] + 2, shape[1], shape[2] + 2), 42.0)
    out = beside[1:-1, :, 1:-1]
    fastsoftmax.softmax_backward(x, y, 1, out=out, workers=workers)
    wanted = y * (x - (x * y).sum(1, keepdims=True))
    np.testing.assert_allclose(out, wanted, rtol=1e-12, atol=1e-12 * shape[1])
    out[...] = 42.0
    assert np.all(beside == 42.0)

    log_sum = np.log(np.exp(x).sum(1))
    index, confidence = fastsoftmax.predict(x, 1, return_confidence=True, workers=workers)
    np.testing.assert_array_equal(index, x.argmax(1))
    np.testing.assert_allclose(confidence, np.exp(x.max(1) - log_sum), rtol=1e-12)
    k = min(3, shape[1])
    values, indices = fastsoftmax.top_k(x, k, 1, workers=workers)
    largest = np.argsort(-x, axis=1)[:, :k]
    np.testing.assert_array_equal(indices, largest)
    chosen = np.take_along_axis(x, largest, 1)
    np.testing.assert_allclose(values, np.exp(chosen - log_sum[:, np.newaxis]), rtol=1e-12)
    labels = rng.integers(0, shape[1], log_sum.shape)
    chosen = np.take_along_axis(x, labels[:, np.newaxis], 1)[:, 0]
    losses = fastsoftmax.cross_entropy(x, labels, axis=1, reduction="none", workers=workers)
    np.testing.assert_allclose(losses, log_sum - chosen, rtol=1e-11, atol=1e-13)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux's names of modes")
@needs_proc
def test_workers_round_as_the_caller_does():
    """Or else the bits depended on who computed them."""
    code = """
import ctypes, ctypes.util
UPWARD = {"x86_64": 0x800, "aarch64": 0x400000}[os.uname().machine]
libm = ctypes.CDLL(ctypes.util.find_library("m"))
assert is_right(workers=2)
for workers in (1, 2):
    assert libm.fesetround(UPWARD) == 0
    result = fastsoftmax.softmax(x, -1, workers=workers)
    libm.fesetround(0)
    print(hash(result.tobytes()), np.array_equal(result, alone))
print(threads())
"""
    one, differs, two, differs_too, threads = output(code, OMP_NUM_THREADS="2")
    assert threads == "2"
    assert (differs, differs_too) == ("False", "False")
    assert one == two


# How many threads there are


@needs_proc
def test_threads_are_started_when_there_is_work_for_them():
    code = """
counts = [threads()]
for rows in (1, 10, 100, 1400):
    fastsoftmax.softmax(x[:rows], -1)
    counts.append(threads())
for _ in range(10):
    fastsoftmax.log_softmax(x, -1)
    fastsoftmax.logsumexp(x.T, 0)
print(*counts, threads())
"""
    assert output(code, OMP_NUM_THREADS="3") == ["1", "1", "1", "1", "3", "3"]


@needs_proc
@pytest.mark.parametrize("shape", [(1, 1_000_000), (1_000_000, 1), (50_000, 20)], ids=str)
def test_no_thread_is_woken_for_long_slices_that_other_work_would_not_wake_it_for(shape):
    code = f"""
few = np.ones({shape}, "f4")
fastsoftmax.softmax(few, None)
fastsoftmax.softmax(few, 0)
print(threads())
fastsoftmax.softmax(np.concatenate((few, few)), None)
print(threads())
"""
    assert output(code, OMP_NUM_THREADS="2") == ["1", "2"]


@needs_proc
@pytest.mark.parametrize(
    "call",
    [
        "predict(x, return_confidence=True{})",
        "predict(np.tile(x, (3, 1)){})",
        "top_k(x, 3{})",
        "softmax_logsumexp(x{})",
        "cross_entropy(x, labels{})",
        "cross_entropy(x, alone, return_grad=True{})",
        "logsumexp(x, -1, alone{})",
        "softmax_backward(x, alone{})",
        "log_softmax_backward(x, alone{})",
        "softmax_grad_hess(x, labels{})",
        "top_k(x.T, 3, 0{})",
    ],
)
def test_as_many_threads_work_for_classifiers_as_workers_are_asked_for(call):
    code = """
labels = x.argmax(-1)
with fastsoftmax.set_workers(1):
    fastsoftmax.CALL
    print(threads())
fastsoftmax.WITH_2
print(threads())
with fastsoftmax.set_workers(3):
    fastsoftmax.CALL
print(threads())
"""
    code = code.replace("CALL", call.format("")).replace("WITH_2", call.format(", workers=2"))
    assert output(code, OMP_NUM_THREADS="4") == ["1", "2", "3"]


@needs_proc
def test_indices_alone_need_a_larger_array_for_threads():
    """They cost a fraction of what an exponential does."""
    code = """
fastsoftmax.predict(x)
print(threads())
fastsoftmax.predict(np.tile(x, (3, 1)))
print(threads())
"""
    assert output(code, OMP_NUM_THREADS="2") == ["1", "2"]


@needs_proc
def test_a_fit_of_the_temperature_obeys_set_workers():
    code = """
from fastsoftmax.calibration import fit_temperature
labels = np.where(np.arange(len(x)) % 2, x.argmax(-1), 0)
with fastsoftmax.set_workers(1):
    one = fit_temperature(x, labels)
print(threads())
with fastsoftmax.set_workers(2):
    two = fit_temperature(x, labels)
print(threads(), one == two)
"""
    assert output(code, OMP_NUM_THREADS="2") == ["1", "2", "True"]


@pytest.mark.skipif(not HAS_OPENMP, reason="built without OpenMP")
@needs_proc
def test_a_limit_on_openmp_is_obeyed():
    code = """
from threadpoolctl import threadpool_limits
for limit in (1, 2, 3):
    with threadpool_limits(limit, "openmp"):
        assert is_right() and is_right(workers=4)
        print(threads())
assert is_right(workers=4)
print(threads())
"""
    assert output(code, OMP_NUM_THREADS="4") == ["1", "2", "3", "4"]
    # The variable is OpenMP's limit too.
    code = "assert is_right(workers=4); print(threads())"
    assert output(code, OMP_NUM_THREADS="1") == ["1"]
    assert output(code, OMP_NUM_THREADS="1", FASTSOFTMAX_NUM_THREADS="4") == ["1"]


def threads_of_a_call() -> tuple[int, int]:
    """How many may be used, and how many were started: for joblib, which runs it elsewhere."""
    x = np.random.default_rng(0).normal(0.0, 5.0, (1400, 1000))
    before = set(os.listdir("/proc/self/task"))  # of which joblib's own may end meanwhile
    fastsoftmax.softmax(x, -1)
    return fastsoftmax.get_workers(), len(set(os.listdir("/proc/self/task")) - before)


@pytest.mark.parametrize("most", [1, 2])
@needs_proc
def test_the_limit_that_joblib_sets_is_obeyed(monkeypatch, most):
    monkeypatch.setenv("PYTHONPATH", f"{child.PACKAGE_FOLDER}{os.pathsep}{Path(__file__).parent}")
    with joblib.parallel_config(backend="loky", inner_max_num_threads=most):
        found = joblib.Parallel(n_jobs=2)(joblib.delayed(threads_of_a_call)() for _ in range(2))
    assert {workers for workers, _ in found} == {most}
    helpers = 0 if _backend.ACTIVE.kernels.name == "numpy" else most - 1
    assert max(started for _, started in found) == helpers


@needs_proc
def test_callers_at_once_share_the_processors():
    """Eight callers do not start a team each; all are served, and right."""
    code = """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(8) as pool:
    assert all(pool.map(lambda _: is_right(), range(200)))
for _ in range(500):  # those of the executor have ended, but may not be gone yet
    if threads() > 2:
        time.sleep(0.01)
print(threads())
"""
    assert output(code, OMP_NUM_THREADS="2") == ["2"]


@pytest.mark.parametrize("shape", [(300, 1000), (30_000, 10), (3, 1000, 100)], ids=str)
def test_callers_at_once_get_their_own_results(api, many_threads, shape):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(0.0, 5.0, shape) for _ in range(6)]

    def results(x, workers):
        log_y = -abs(x)
        return (
            api.softmax(x, 1, workers=workers),
            api.log_softmax_backward(x, log_y, 1, workers=workers),
        )

    alone = [results(x, 1) for x in arrays]
    with ThreadPoolExecutor(6) as pool:
        together = list(pool.map(lambda x: results(x, 3), arrays * 5))
    for i, got in enumerate(together):
        assert_same(got, alone[i % len(arrays)])


# Other processes


@needs_fork
@needs_kernels
def test_a_child_of_a_process_that_used_threads_computes_too():
    code = """
def succeeds(action):
    child = os.fork()
    if child == 0:
        status = 1
        try:
            action()
            status = 0
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0

def compute():
    for _ in range(3):
        assert is_right()

def compute_and_have_a_child():
    compute()
    assert succeeds(compute)
    compute()

def have_a_child_and_compute():
    assert succeeds(compute_and_have_a_child)
    compute()

compute()
for _ in range(20):
    assert succeeds(compute)
    assert succeeds(compute_and_have_a_child)
    assert succeeds(have_a_child_and_compute)
    compute()
print("done")
"""
    for workers in ("2", "4"):
        assert output(code, OMP_NUM_THREADS=workers) == ["done"]


@needs_fork
@needs_kernels
def test_a_fork_in_the_midst_of_calls_of_other_threads():
    code = """
import threading, warnings
warnings.simplefilter("ignore", DeprecationWarning)  # of forks in a process with threads
is_over = False
wrong = []

def compute():
    while not is_over:
        if not is_right():
            wrong.append(1)

others = [threading.Thread(target=compute) for _ in range(3)]
for thread in others:
    thread.start()
for _ in range(100):
    child = os.fork()
    if child == 0:
        os._exit(0 if is_right() and is_right(workers=2) else 1)
    assert os.waitpid(child, 0)[1] == 0
is_over = True
for thread in others:
    thread.join()
print(len(wrong))
"""
    assert output(code, OMP_NUM_THREADS="4") == ["0"]


@needs_fork
@needs_kernels
def test_a_pool_of_forked_processes():
    code = """
import multiprocessing
def call(_):
    return is_right()
assert is_right()
for _ in range(5):
    with multiprocessing.get_context("fork").Pool(3) as pool:
        assert all(pool.map(call, range(12)))
    assert is_right()
print("done")
"""
    assert output(code, OMP_NUM_THREADS="2") == ["done"]


@needs_fork
@needs_proc
def test_a_child_has_threads_of_its_own():
    code = """
assert is_right()
child = os.fork()
if child == 0:
    before = threads()
    os._exit(10 * before + threads() if is_right() else 0)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
child = os.fork()
if child == 0:
    is_right()
    os._exit(threads())
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert output(code, OMP_NUM_THREADS="3") == ["13", "3"]


@pytest.mark.skipif(not hasattr(os, "kill") or os.name == "nt", reason="needs POSIX's signals")
def test_an_interrupt_is_honoured_when_the_call_returns():
    code = """
import threading
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background ignores
big = np.tile(x, (20, 1))
wanted = np.tile(alone, (20, 1))
out = np.empty_like(big)
for _ in range(5):
    out[...] = 0
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    returned = 0
    try:
        while True:
            fastsoftmax.softmax(big, -1, out=out)
            returned += 1
    except KeyboardInterrupt:
        print("interrupted")
    timer.join()
    # The call that was under way was not cut off.
    assert np.array_equal(out, wanted)
    assert is_right()
"""
    assert output(code) == ["interrupted"] * 5


@needs_proc
def test_helpers_leave_signals_to_others_but_for_those_of_their_own_mistakes():
    """A handler such as faulthandler's then sees where they were."""
    code = """
assert is_right()

def blocked():
    masks = []
    for task in os.listdir("/proc/self/task"):
        if int(task) != os.getpid():
            with open(f"/proc/self/task/{task}/status") as file:
                words = next(line for line in file if line.startswith("SigBlk")).split()
            masks.append(int(words[1], 16))
    return masks

def among(name):
    return {mask >> (getattr(signal, name) - 1) & 1 for mask in blocked()}

# The C library makes a thread with every signal blocked; it may not have run yet.
deadline = time.monotonic() + 20
while among("SIGSEGV") != {0} and time.monotonic() < deadline:
    time.sleep(0.01)
print(*(among(name) for name in ("SIGINT", "SIGTERM", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL")))
"""
    assert output(code, OMP_NUM_THREADS="2") == ["{1}", "{1}", "{0}", "{0}", "{0}", "{0}"]


@needs_kernels
def test_labels_that_another_thread_changes_lead_nowhere_else():
    """They are checked once; what is used is what was checked."""
    code = """
import threading
x = np.random.default_rng(0).normal(size=(20_000, 100))
labels = np.zeros(20_000, np.int64)
is_over = False
def change():
    while not is_over:
        labels[15_000:] = 1 << 40
        labels[15_000:] = 0
thread = threading.Thread(target=change)
thread.start()
for _ in range(60):
    try:
        fastsoftmax.cross_entropy(x, labels, return_grad=True, workers=1)
        fastsoftmax.softmax_grad_hess(x, labels, workers=1)
        fastsoftmax.nll_loss(x, labels)
    except IndexError:
        pass
is_over = True
thread.join()
print("done")
"""
    assert output(code) == ["done"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs stacks of any size")
def test_a_stack_of_128_kb_is_enough():
    """What musl gives a thread."""
    code = """
import threading
threading.stack_size(128 << 10)
def call(function, *arguments, **options):
    thread = threading.Thread(target=function, args=arguments, kwargs=options)
    thread.start()
    thread.join()
for dtype in ("f2", "f4", "f8"):
    for shape, axis in (((20_000, 20), 0), ((1, 200_000), 1), ((50, 700, 300), 1), ((999, 7), 1)):
        x = np.ones(shape, dtype)
        for function in (fastsoftmax.softmax, fastsoftmax.log_softmax, fastsoftmax.logsumexp):
            call(function, x, axis)
        call(fastsoftmax.predict, x, axis, return_confidence=True)
        call(fastsoftmax.top_k, x, 5, axis)
        labels = np.zeros(np.delete(shape, axis), int)
        for target in (labels, x):
            call(fastsoftmax.cross_entropy, x, target, axis=axis, return_grad=True)
        call(fastsoftmax.softmax_backward, x, x, axis)
        call(fastsoftmax.log_softmax_backward, x, x, axis)
print("done")
"""
    assert output(code) == ["done"]


def kilobytes(code):
    """The numbers that it prints, given `peak`, the most memory that was in use so far."""
    begin = """
import resource
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert is_right()
"""
    return [int(number) for number in output(begin + code, OMP_NUM_THREADS="2")]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs peaks in kilobytes")
def test_classifiers_take_no_memory_in_proportion_to_the_array():
    """Along a strided axis, for each array of its shape, 16 columns of every thread."""
    code = """
big = np.ones((4000, 16_000), "f4")  # 256 MB
labels = np.zeros(16_000, int)
before = peak()
fastsoftmax.predict(big, 0, return_confidence=True)
fastsoftmax.cross_entropy(big, labels, axis=0)
fastsoftmax.cross_entropy(big[:, :4000].T, labels[:4000])
print(peak() - before)
"""
    (extra,) = kilobytes(code)
    assert extra < 8 * 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs peaks in kilobytes")
def test_no_memory_is_taken_in_proportion_to_the_array():
    code = """
big = np.ones((64, 1_000_000), "f4")  # 256 MB
out = np.zeros_like(big)
sums = np.zeros((64,), "f4")
for axis in (0, 1):
    before = peak()
    fastsoftmax.softmax(big, axis, out=out)
    fastsoftmax.log_softmax(big, axis, out=out)
    fastsoftmax.softmax(out, axis, out=out)
    if axis == 1:
        fastsoftmax.logsumexp(big, axis)
    print(peak() - before)
before = peak()
result = fastsoftmax.softmax(big, 1)
print(peak() - before - result.nbytes // 1024)
"""
    extra = kilobytes(code)
    assert len(extra) == 3
    assert max(extra) < 8 * 1024


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs peaks in kilobytes")
def test_conversions_take_no_memory_in_proportion_to_the_array():
    code = """
integers = np.ones((4000, 4000), "i4")  # 64 MB, and twice as much converted
floats = np.ones((4000, 4000), "f4")
out = np.ones((4000, 4000), "f2")
every_other = np.ones((4000, 2, 2, 2000), "f4")[:, ::2, :, :]  # whose axes 1 and 3 do not merge
before = peak()
fastsoftmax.softmax(floats, 1, dtype="f2", out=out)
fastsoftmax.log_softmax(floats, 0, dtype="f2", out=out)
fastsoftmax.logsumexp(integers, 1)
fastsoftmax.logsumexp(integers, 0)
fastsoftmax.logsumexp(every_other, (1, 3))
print(peak() - before)
"""
    (extra,) = kilobytes(code)
    assert extra < 24 * 1024


@pytest.mark.skipif(
    getattr(sys, "_is_gil_enabled", lambda: True)(), reason="needs a free-threaded Python"
)
@needs_kernels
def test_the_lock_of_the_interpreter_stays_off():
    code = """
import sys, fastsoftmax
fastsoftmax.softmax([1.0])
print(sys._is_gil_enabled())
"""
    assert child.output("-c", code) == "False\n"
