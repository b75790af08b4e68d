"""Which backends there are, which one is in force, and that it is the one that does the work."""

import functools
import inspect
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest

import child
import fingerprint
from fastsoftmax import _backend, _fallback
from fastsoftmax._functions import Functions

COMPILED = [name for name in _backend.available() if name != "numpy"]


def in_force(**environment: str) -> dict:
    """The backend in force in a new interpreter."""
    return json.loads(child.output(fingerprint.__file__, **environment))


def test_backends_are_listed_best_first():
    assert _backend.BACKENDS[-1] == "numpy"
    assert _backend.available() == tuple(n for n in _backend.BACKENDS if n in _backend.available())
    assert "numpy" in _backend.available()


def test_kernels_are_what_their_name_says(kernels, backend):
    assert kernels.name == backend
    module = "fastsoftmax._fallback" if backend == "numpy" else "fastsoftmax._core"
    assert type(kernels).__module__ == module


def test_scalar_vector_and_numpy_kernels_round_differently():
    """So the last bits tell which of these ran; two widths of vectors may agree to the last bit."""
    vector = [name for name in COMPILED if name != "scalar"][:1]
    kinds = {*vector, *COMPILED[-1:], "numpy"}
    prints = {fingerprint.fingerprint(Functions(_backend.get(name))) for name in kinds}
    assert len(prints) == len(kinds)


def test_a_forced_backend_does_the_work(api, kernels, backend):
    found = in_force(FASTSOFTMAX_BACKEND=backend)
    assert found["name"] == found["config"]["backend"] == backend
    assert found["module"] == type(kernels).__module__
    assert found["fingerprint"] == fingerprint.fingerprint(api)
    assert "FASTSOFTMAX_BACKEND" in found["config"]["reason"]


@pytest.mark.parametrize("environment", [{}, {"FASTSOFTMAX_BACKEND": ""}], ids=["unset", "empty"])
def test_the_best_backend_is_in_force_otherwise(environment):
    best = _backend.available()[0]
    found = in_force(**environment)
    assert found["name"] == found["config"]["backend"] == best
    assert found["fingerprint"] == fingerprint.fingerprint(Functions(_backend.get(best)))
    assert "FASTSOFTMAX_BACKEND" not in found["config"]["reason"]


@pytest.mark.parametrize("name", ["avx1024", "AVX2", " numpy", "numpy,scalar", "0"])
def test_a_backend_that_does_not_exist_is_an_error(name):
    done = child.run("-c", "import fastsoftmax", FASTSOFTMAX_BACKEND=name)
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ValueError: ")
    for mention in ("FASTSOFTMAX_BACKEND", name, *_backend.available()):
        assert mention in last
    with pytest.raises(ValueError, match="unknown"):
        _backend.get(name)


WITHOUT_EXTENSION = """
import sys
sys.modules["fastsoftmax._core"] = None
import fastsoftmax
from fastsoftmax import _backend
assert _backend.available() == ("numpy",)
assert fastsoftmax.softmax([0.0, 0.0]).tolist() == [0.5, 0.5]
fastsoftmax.show_config()
"""


def test_without_the_extension_numpy_does_the_work_and_the_reason_is_shown():
    shown = child.output("-c", WITHOUT_EXTENSION)
    assert "backend in force: numpy" in shown
    assert "fastsoftmax._core" in shown


@pytest.mark.parametrize("name", [n for n in _backend.BACKENDS if n != "numpy"])
def test_a_backend_that_is_missing_here_is_an_error_and_not_replaced(name):
    done = child.run("-c", WITHOUT_EXTENSION, FASTSOFTMAX_BACKEND=name)
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert last.startswith("ValueError: ")
    for mention in ("FASTSOFTMAX_BACKEND", name, "not available", "numpy"):
        assert mention in last


PYTEST_WITHOUT_EXTENSION = """
import sys
sys.modules["fastsoftmax._core"] = None
import pytest
sys.exit(pytest.main(sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("required", "status", "said"),
    [
        ("numpy", pytest.ExitCode.OK, "skipped"),
        ("numpy,scalar", pytest.ExitCode.TESTS_FAILED, "this machine has no backend scalar"),
        ("avx1024", pytest.ExitCode.USAGE_ERROR, "avx1024"),
    ],
)
def test_a_required_backend_that_is_missing_fails_the_tests(required, status, said):
    tests = Path(__file__).with_name("test_onnx.py")
    arguments = ["-p", "no:cacheprovider", "-q", "-rs", tests, "-k", "example"]
    done = child.run("-c", PYTEST_WITHOUT_EXTENSION, *arguments, FASTSOFTMAX_REQUIRE=required)
    assert done.returncode == status, done.stdout
    assert said in done.stdout + done.stderr


CPUINFO = Path("/proc/cpuinfo")
NEEDS = {
    "avx512": {"avx512f", "avx512dq", "avx512bw", "avx512vl"},
    "avx2": {"avx2", "fma"},
    "neon": {"asimd"},
    "scalar": set(),
}


@pytest.mark.skipif(not COMPILED, reason="there are no compiled kernels")
@pytest.mark.skipif(not CPUINFO.exists(), reason="what the processor has is not written down here")
def test_the_processor_is_recognised():
    """As the operating system sees it."""
    flags = set(" ".join(re.findall("^(?:flags|Features)(.*)", CPUINFO.read_text(), re.M)).split())
    assert [name for name, needed in NEEDS.items() if needed <= flags] == COMPILED


def signatures(kernels) -> dict:
    """Public names; for methods, the names and defaults of what they take."""
    found = {}
    for name, member in inspect.getmembers(kernels):
        if not name.startswith("_"):
            takes = inspect.signature(member).parameters.values() if callable(member) else []
            found[name] = [(p.name, p.kind, p.default) for p in takes]
    return found


def test_the_kernels_of_all_backends_have_the_signatures_of_those_in_numpy(kernels):
    assert signatures(kernels) == signatures(_fallback.Kernels())


def test_importing_the_package_imports_numpy_and_nothing_else():
    code = "import sys, fastsoftmax; print(*{name.partition('.')[0] for name in sys.modules})"
    imported = set(child.output("-c", code).split())
    assert not imported & {"scipy", "ml_dtypes", "rich", "matplotlib", "sklearn", "pytest"}
    assert {"numpy", "fastsoftmax"} <= imported


MEMORY = np.arange(12.0)
PLAIN = np.arange(12.0).reshape(3, 4)
MAPS = ("softmax", "log_softmax")
ALL = (*MAPS, "logsumexp")

LEFT = object()


def quick(kernels, function):
    """A public function with its quick way alone, which gives LEFT for what it does not take."""

    def general(*arguments, **options):
        return LEFT

    general.__name__ = function
    return kernels.quick(general)


SOON_PLAIN = {
    "a list": [1.0, 2.0],
    "a list of lists": PLAIN.tolist(),
    "whole numbers": [3, 1, 2],
    "integers": np.arange(3),
    "integers of one byte": np.array([[0, 255], [255, 1]], np.uint8),
    "bools": MEMORY > 3,
    "every other element": MEMORY[::2],
    "a vector backwards": MEMORY[::-1].astype(np.float16)[::-1],
    "the other byte order": PLAIN.astype(PLAIN.dtype.newbyteorder()),
    "not aligned": np.zeros(25, np.uint8)[1:].view(np.float64),
    "some columns": PLAIN[:, ::2],
    "some rows of many": np.arange(60.0, dtype=np.float32).reshape(5, 3, 4)[::2, 1:],
    "backwards": PLAIN[::-1, ::-1],
    "a column": PLAIN[:, :1],
    "Fortran order": np.asfortranarray(PLAIN),
    "Fortran order of three axes": np.arange(24.0, dtype=np.float16).reshape(2, 3, 4).T,
}

NOT_PLAIN = {
    **{name: (x, -1, None) for name, x in SOON_PLAIN.items()},
    "a list of lists of different lengths": ([[1.0], [1.0, 2.0]], -1, None),
    "a list of other things": (["a", None], -1, None),
    "an empty list": ([], -1, None),
    "a large list of integers": ([0] * 5000, -1, None),
    "nothing": (None, -1, None),
    "complex numbers": (PLAIN + 1j, -1, None),
    "long double": (PLAIN.astype(np.longdouble), -1, None),
    "a number": (np.array(1.0), None, None),
    "axes in another order": (np.zeros((2, 3, 4)).swapaxes(0, 1), -1, None),
    "a row many times": (np.broadcast_to(MEMORY, (3, 12)), -1, None),
    "large and not contiguous": (np.zeros((100, 100))[:, ::2], -1, None),
    "a subclass": (np.ma.array(PLAIN), -1, None),
    "no elements": (np.empty((0, 4)), -1, None),
    "slices of no elements": (np.empty((3, 0)), -1, None),
    "a tuple of axes": (PLAIN, (1,), None),
    "an axis too far": (PLAIN, 2, None),
    "an axis of floating type": (PLAIN, -1.0, None),
    "an axis that is no number": (PLAIN, "last", None),
    "an axis larger than any": (PLAIN, 10**30, None),
    "out of another shape": (PLAIN, -1, np.zeros((4, 3))),
    "out of another dtype": (PLAIN, -1, np.zeros((3, 4), np.float32)),
    "out read-only": (PLAIN, -1, np.broadcast_to(np.zeros(4), (3, 4))),
    "out not contiguous": (PLAIN, -1, np.zeros((3, 8))[:, ::2]),
    "out a list": (PLAIN, -1, [0.0] * 12),
    "out a subclass": (PLAIN, -1, np.ma.zeros((3, 4))),
    "out overlapping": (MEMORY[:-1], -1, MEMORY[1:]),
}


@pytest.mark.skipif(not COMPILED, reason="there are no compiled kernels")
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_lane_sums_weighted_terms_along_any_axis(kernels, axis):
    """A vector of weights is one of the last axis, whichever axis is as long."""
    if kernels.name == "numpy":
        pytest.skip("NumPy has no lanes")
    rng = np.random.default_rng(0)
    x, weights = rng.normal(0.0, 3.0, (2, 3, 3, 3))
    lane = quick(kernels, "logsumexp")
    wanted = np.log((weights[0, 0] ** 2 * np.exp(x)).sum(axis))
    got = lane(x, axis, weights[0, 0] ** 2)
    assert got is LEFT if axis < 2 else np.allclose(got, wanted, rtol=1e-14)
    got = lane(x, axis, weights**2)
    np.testing.assert_allclose(got, np.log((weights**2 * np.exp(x)).sum(axis)), rtol=1e-13)


@pytest.mark.parametrize("case", NOT_PLAIN)
def test_a_lane_leaves_what_is_not_plain_to_the_general_way(kernels, case):
    x, axis, out = NOT_PLAIN[case]
    before = None if out is None else np.array(out)
    for function in MAPS if case not in SOON_PLAIN else ():
        assert quick(kernels, function)(x, axis, out=out) is LEFT
    grad = PLAIN if out is None else np.ones_like(PLAIN)
    assert kernels.softmax_backward_lane(grad, x, axis, out) is None
    assert kernels.log_softmax_backward_lane(grad, x, axis, out) is None
    if case in SOON_PLAIN:
        return
    assert kernels.softmax_logsumexp_lane(x, axis, out) is None
    if out is None:
        labels = np.zeros(3, np.int64)
        assert quick(kernels, "logsumexp")(x, axis) is LEFT
        assert kernels.predict_lane(x, axis, True) is None
        assert kernels.top_k_lane(x, 2, axis, False) is None
        for target in labels, x:
            assert (
                kernels.cross_entropy_lane(x, target, None, axis, -100, 0.0, "mean", False) is None
            )
        assert kernels.nll_loss_lane(x, labels, None, axis, -100, "mean") is None
        assert x is PLAIN or kernels.softmax_grad_hess_lane(x, labels, None, 1.0) is None
    else:
        np.testing.assert_array_equal(out, before)


@pytest.mark.parametrize("case", SOON_PLAIN)
def test_the_quick_way_takes_what_is_soon_plain(kernels, case):
    x = SOON_PLAIN[case]
    before = np.array(x)
    dtype = before.dtype if before.dtype in (np.float16, np.float32) else np.dtype(np.float64)
    plain = before.astype(dtype, order="C")
    for function in ALL:
        got, wanted = (quick(kernels, function)(a, -1) for a in (x, plain))
        if wanted is LEFT:  # a backend that has no quick way, or not for this dtype
            assert got is LEFT
            continue
        assert type(got) is type(wanted)
        assert got.dtype == dtype
        assert got.dtype.isnative
        np.testing.assert_array_equal(got, wanted)
        assert got.strides == the_general_way(kernels, function, np.asarray(x), -1).strides
        assert function == "logsumexp" or got.flags.owndata
    np.testing.assert_array_equal(x, before)


@pytest.mark.skipif(not COMPILED, reason="there are no compiled kernels")
@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_quick_way_takes_fortran_order(name, dtype):
    kernels = _backend.get(name)
    rng = np.random.default_rng(0)
    x = rng.normal(0.0, 5.0, (70, 3, 40)).astype(dtype).T
    mask = rng.random(x.T.shape).T < 0.7
    for axis, where in itertools.product((None, 0, 1, -1), (None, mask)):
        for function in MAPS:
            call = functools.partial(quick(kernels, function), axis=axis, where=where)
            wanted = the_general_way(kernels, function, x, axis, where=where, temperature=0.7)
            for out in (None, np.zeros_like(x)):
                got = call(x, temperature=0.7, out=out)
                assert out is None or got is out
                assert_identical(got, wanted)
                assert got.strides == wanted.strides
            out = x.copy(order="K")
            assert call(out, temperature=0.7, out=out) is out
            assert_identical(out, wanted)
            assert call(x, out=np.zeros(x.shape, dtype)) is LEFT
        for keepdims in (False, True):
            wanted = the_general_way(kernels, "logsumexp", x, axis, keepdims=keepdims, where=where)
            got = quick(kernels, "logsumexp")(x, axis, None, keepdims, where=where)
            assert_identical(got, wanted)
            assert got.strides == wanted.strides


@pytest.mark.parametrize("dtype", [np.float64, "float32", float, np.dtype(np.float16)])
@pytest.mark.parametrize("of", [np.float16, np.float32, np.float64, np.int32, bool])
def test_the_quick_way_computes_in_a_wider_dtype(kernels, dtype, of):
    x = (MEMORY > 7).reshape(3, 4).astype(of)
    for function in ALL:
        got = quick(kernels, function)(x, -1, dtype=dtype)
        if got is not LEFT:
            assert_identical(got, the_general_way(kernels, function, x, -1, dtype=dtype))
    is_compiled = kernels.name != "numpy"
    natural = np.float64 if np.dtype(of).kind in "bi" else of
    is_wider = np.dtype(dtype) != np.float16 and np.can_cast(natural, dtype)
    if is_compiled and np.dtype(dtype).name in kernels.dtypes and is_wider:
        assert got is not LEFT


SOON_WHOLE_MASKS = {
    "one": (-1, [True]),
    "a number": (-1, True),
    "for each row": (-1, [[True], [False], [True]]),
    "for several rows, of all": (None, [True, True, False, True]),
    "for the other axis": (0, [True, True, False, True]),
    "a row with an axis more": (-1, [[False, True, True, False]]),
    "in Fortran order": (-1, np.asfortranarray(PLAIN % 3 > 0)),
    "not contiguous": (-1, np.repeat(PLAIN % 3 > 0, 2, 1)[:, ::2]),
}


@pytest.mark.parametrize("case", SOON_WHOLE_MASKS)
def test_the_quick_way_broadcasts_a_mask(kernels, case):
    axis, mask = SOON_WHOLE_MASKS[case]
    where = np.array(mask) if type(mask) is list else np.asarray(mask)
    for function in ALL:
        got = quick(kernels, function)(PLAIN, axis, where=where)
        assert (got is LEFT) == (kernels.name == "numpy")
        if got is not LEFT:
            assert_identical(got, the_general_way(kernels, function, PLAIN, axis, where=where))


def test_the_quick_way_may_write_over_what_it_has_copied(kernels):
    memory = np.arange(12.0)
    wanted = quick(kernels, "softmax")(memory[::2].copy(), -1)
    out = memory[:6]
    got = quick(kernels, "softmax")(memory[::2], -1, out=out)
    assert got is (LEFT if wanted is LEFT else out)
    np.testing.assert_array_equal(out, np.arange(6.0) if wanted is LEFT else wanted)


MASK = PLAIN > 3
NOT_QUICK = {
    "a mask that is a list": (ALL, {"where": MASK.tolist()}),
    "a mask of integers": (ALL, {"where": MASK.astype(np.int8)}),
    "a mask of a subclass": (ALL, {"where": np.ma.array(MASK)}),
    "a mask of another shape": (ALL, {"where": MASK[:2]}),
    "a mask of the same size": (ALL, {"where": MASK.reshape(4, 3)}),
    "a flat mask": (ALL, {"axis": None, "where": MASK.reshape(-1)}),
    "a mask of more dimensions": (ALL, {"where": MASK[np.newaxis]}),
    "a dtype of its own": (ALL, {"dtype": np.float16}),
    "the other byte order": (ALL, {"dtype": PLAIN.dtype.newbyteorder()}),
    "a dtype that there is not": (ALL, {"dtype": "float31"}),
    "workers": (ALL, {"workers": 1}),
    "temperatures": (MAPS, {"temperature": np.array([[1.0], [2.0], [3.0]])}),
    "a temperature in an array": (MAPS, {"temperature": np.array(2.0)}),
    "a temperature that is a bool": (MAPS, {"temperature": True}),
    "a temperature that is a string": (MAPS, {"temperature": "2"}),
    "no temperature": (MAPS, {"temperature": None}),
    "a temperature of zero": (MAPS, {"temperature": 0}),
    "a negative temperature": (MAPS, {"temperature": -2.0}),
    "a temperature that is NaN": (MAPS, {"temperature": np.nan}),
    "an infinite temperature": (MAPS, {"temperature": np.inf}),
    "a minute temperature": (MAPS, {"temperature": 2.0**-61}),
    "a huge temperature": (MAPS, {"temperature": 2.0**61}),
    "a whole number larger than any temperature": (MAPS, {"temperature": 10**400}),
    "weights": (("logsumexp",), {"b": 1.0}),
    "the sign": (("logsumexp",), {"return_sign": True}),
    "keepdims that is no bool": (("logsumexp",), {"keepdims": 1}),
    "no axis kept, but room for it": (("logsumexp",), {"out": np.zeros((3, 1))}),
    "an axis kept, but no room for it": (("logsumexp",), {"keepdims": True, "out": np.zeros(3)}),
    "room for another axis": (("logsumexp",), {"out": np.zeros(4)}),
    "room of another dtype": (("logsumexp",), {"out": np.zeros(3, np.float32)}),
    "room in another byte order": (
        ("logsumexp",),
        {"out": np.zeros(3, PLAIN.dtype.newbyteorder())},
    ),
    "room that is not contiguous": (("logsumexp",), {"out": np.zeros(6)[::2]}),
    "read-only room": (("logsumexp",), {"out": np.broadcast_to(np.zeros(3), (3,))}),
    "room in a list": (("logsumexp",), {"out": [0.0] * 3}),
    "room in a subclass": (("logsumexp",), {"out": np.ma.zeros(3)}),
}


@pytest.mark.parametrize("case", NOT_QUICK)
def test_the_quick_way_leaves_options_that_are_not_plain(kernels, case):
    functions, options = NOT_QUICK[case]
    before = None if "out" not in options else np.array(options["out"])
    for function in functions:
        assert quick(kernels, function)(PLAIN, **{"axis": -1, **options}) is LEFT
    if before is not None:
        np.testing.assert_array_equal(options["out"], before)


def test_the_quick_way_leaves_results_in_the_memory_of_an_argument(kernels):
    x = np.ones((3, 4))
    for out in (x[0, :3], x.reshape(-1)[-3:]):
        assert quick(kernels, "logsumexp")(x, -1, out=out) is LEFT
    np.testing.assert_array_equal(x, np.ones((3, 4)))
    row = np.ones((1, 1))
    assert quick(kernels, "logsumexp")(row, -1, keepdims=True, out=row) is LEFT


def test_the_quick_way_copies_a_mask_in_the_memory_of_the_result(kernels):
    for shape, functions in ((3, 4), MAPS), ((3,), ("logsumexp",)):
        for function in functions:
            memory = np.zeros(96, np.uint8)
            out = memory[: 8 * np.prod(shape)].view(np.float64).reshape(shape)
            where = memory[1:13].view(bool).reshape(3, 4)
            where[...] = PLAIN % 3 > 0
            wanted = the_general_way(kernels, function, PLAIN, -1, where=where.copy())
            before = memory.copy()
            got = quick(kernels, function)(PLAIN, -1, where=where, out=out)
            if kernels.name == "numpy":
                assert got is LEFT
                np.testing.assert_array_equal(memory, before)
            else:
                assert got is out
                assert_identical(out, wanted)


def the_general_way(kernels, function, *arguments, **options):
    return getattr(Functions, function)(Functions(kernels), *arguments, **options)


def plain_options(x, axis):
    """Options that the quick way takes."""
    yield {}
    masks = [np.random.default_rng(1).random(x.shape) < 0.7, np.zeros(x.shape, bool)]
    if (axis is None and x.ndim == 1) or axis in (-1, x.ndim - 1):
        masks.append(masks[0].reshape(-1)[: x.shape[-1]].copy())
    for where in masks:
        yield {"where": where}
    for dtype in (x.dtype, x.dtype.type, x.dtype.name):
        yield {"dtype": dtype}
    for temperature in (1, 1.0, np.float64(1), 3, 0.3, np.float64(7), 2.0**-60, 2**60):
        yield {"temperature": temperature}
    yield {"temperature": 0.3, "where": masks[0], "dtype": x.dtype}


@pytest.mark.skipif(not COMPILED, reason="there are no compiled kernels")
@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("shape", [(1,), (40,), (3, 4), (1, 5), (5, 1), (2, 30, 2), (3, 1, 40)])
def test_the_quick_way_gives_what_the_general_way_gives(name, shape):
    kernels = _backend.get(name)
    rng = np.random.default_rng(0)
    ordinary = rng.normal(0.0, 5.0, shape)
    special = np.where(
        rng.random(shape) < 0.3, rng.choice([np.nan, np.inf, -np.inf], shape), ordinary
    )
    for dtype in sorted({*kernels.dtypes} - {"bfloat16"}):
        for x in (ordinary.astype(dtype), special.astype(dtype)):
            x.flags.writeable = False
            for axis in (None, *range(-x.ndim, x.ndim)):
                for options in plain_options(x, axis):
                    assert_same_in_any_place(kernels, x, axis, options)


def assert_same_in_any_place(kernels, x, axis, options):
    for function in MAPS:
        wanted = the_general_way(kernels, function, x, axis, **options)
        got = quick(kernels, function)(x, axis, **options)
        assert type(got) is np.ndarray
        assert_identical(got, wanted)
        for out in (np.zeros_like(x), x.copy()):
            assert quick(kernels, function)(x, axis, **options, out=out) is out
            assert_identical(out, wanted)
        out = x.copy()
        assert quick(kernels, function)(out, axis, **options, out=out) is out
        assert_identical(out, wanted)
    if "temperature" in options:
        return
    for keepdims in (False, True):
        wanted = the_general_way(kernels, "logsumexp", x, axis, keepdims=keepdims, **options)
        got = quick(kernels, "logsumexp")(x, axis, keepdims=keepdims, **options)
        assert type(got) is type(wanted)
        assert_identical(got, wanted)
        out = np.zeros(wanted.shape, x.dtype)
        assert quick(kernels, "logsumexp")(x, axis, None, keepdims, **options, out=out) is out
        assert_identical(out, wanted)


def assert_identical(got, wanted):
    assert got.shape == wanted.shape
    assert got.dtype == wanted.dtype
    np.testing.assert_array_equal(got, wanted)


def test_the_functions_show_what_they_take_and_what_they_do(api):
    for function in ALL:
        method = getattr(Functions, function)
        shown = getattr(api, function)
        assert shown.__name__ == function
        assert shown.__doc__ == method.__doc__
        assert inspect.signature(shown) == inspect.signature(method.__get__(api))
        assert inspect.isroutine(shown)


LABELS = np.array([0, 3, 1])
SOON_PLAIN_LABELS = {
    "a list": [0, 3, 1],
    "of 32 bits": LABELS.astype(np.int32),
    "without a sign": LABELS.astype(np.uint8),
    "of the other byte order": LABELS.astype(LABELS.dtype.newbyteorder()),
    "not contiguous": np.repeat(LABELS, 2)[::2],
    "not aligned": np.frombuffer(b"\0" + LABELS.tobytes(), np.uint8)[1:].view(np.int64),
}
NOT_PLAIN_LABELS = {
    "a tuple": ((0, 3, 1), -100, "mean"),
    "a list of other things": ([0, 3, None], -100, "mean"),
    "bools": (LABELS > 0, -100, "mean"),
    "of 64 bits without a sign": (LABELS.astype(np.uint64), -100, "mean"),
    "another shape": (LABELS[:2], -100, "mean"),
    "another dimension": (LABELS[:, np.newaxis], -100, "mean"),
    "a label too large": (LABELS + 1, -100, "mean"),
    "a label too small": (LABELS - 1, -100, "mean"),
    "a label too small, and not the one that is ignored": (LABELS - 2, -1, "mean"),
    "an ignored label that is no integer": (LABELS, -100.0, "mean"),
    "an ignored label larger than any": (LABELS, 10**30, "mean"),
    "a reduction that does not exist": (LABELS, -100, "median"),
    "a reduction that is no string": (LABELS, -100, None),
}


@pytest.mark.skipif(not COMPILED, reason="there are no compiled kernels")
@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("case", SOON_PLAIN_LABELS)
def test_the_lanes_of_losses_take_labels_that_are_soon_plain(name, case):
    kernels, target = _backend.get(name), SOON_PLAIN_LABELS[case]

    def results(labels):
        return (
            *kernels.cross_entropy_lane(PLAIN, labels, None, -1, -100, 0.0, "none", True),
            kernels.nll_loss_lane(PLAIN, labels, None, -1, -100, "none"),
            *kernels.softmax_grad_hess_lane(PLAIN, labels, None, None),
        )

    assert_all_identical(results(target), results(LABELS))
    np.testing.assert_array_equal(target, LABELS)


@pytest.mark.parametrize("case", NOT_PLAIN_LABELS)
def test_the_lane_of_a_loss_leaves_labels_that_are_not_plain(kernels, case):
    target, ignored, reduction = NOT_PLAIN_LABELS[case]
    for with_grad in (False, True):
        got = kernels.cross_entropy_lane(
            PLAIN, target, None, -1, ignored, 0.0, reduction, with_grad
        )
        assert got is None
    assert kernels.nll_loss_lane(PLAIN, target, None, -1, ignored, reduction) is None
    if target is not LABELS:
        assert kernels.softmax_grad_hess_lane(PLAIN, target, None, None) is None


NOT_PLAIN_WEIGHTS = {
    "a tuple": (1.0, 1.0, 1.0, 1.0),
    "a list of other things": [1.0, 1.0, 1.0, None],
    "complex": np.ones(4, complex),
    "longdouble": np.ones(4, np.longdouble),
    "bools": np.ones(4, bool),
    "too few": np.ones(3),
    "another dimension": np.ones((1, 4)),
    "negative": np.array([1.0, 1.0, -1.0, 1.0]),
    "infinite": np.array([1.0, np.inf, 1.0, 1.0]),
    "NaN": np.array([1.0, 1.0, 1.0, np.nan]),
    "a subclass": np.ma.ones(4),
}


@pytest.mark.parametrize("case", NOT_PLAIN_WEIGHTS)
def test_the_lane_of_a_loss_leaves_weights_that_are_not_plain(kernels, case):
    weight = NOT_PLAIN_WEIGHTS[case]
    for target in LABELS, PLAIN:
        assert kernels.cross_entropy_lane(PLAIN, target, weight, -1, 9, 0.0, "sum", True) is None
    assert kernels.nll_loss_lane(PLAIN, LABELS, weight, -1, 9, "sum") is None
    square = np.zeros((4, 4))
    labels = np.zeros(4, int)
    assert kernels.softmax_grad_hess_lane(square, labels, weight, None) is None


@pytest.mark.skipif(not COMPILED, reason="there are no compiled kernels")
@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("make", [list, np.float32, np.int16, lambda w: np.repeat(w, 2)[::2]])
def test_the_lanes_of_losses_take_weights_that_are_soon_plain(name, make):
    kernels, plain = _backend.get(name), np.array([1.0, 0.0, 2.0, 3.0])
    weight = make(plain)

    def results(weight):
        return (
            *kernels.cross_entropy_lane(PLAIN, LABELS, weight, -1, 9, 0.1, "mean", True),
            *kernels.cross_entropy_lane(PLAIN, PLAIN, weight, -1, 9, 0.1, "mean", True),
            kernels.nll_loss_lane(PLAIN, LABELS, weight, -1, 9, "mean"),
            *kernels.softmax_grad_hess_lane(PLAIN, LABELS, weight[:3], None),
        )

    assert_all_identical(results(weight), results(plain))
    np.testing.assert_array_equal(weight, plain)


@pytest.mark.parametrize("smoothing", [-0.1, 1.1, np.nan, 1, None])
def test_the_lane_of_a_loss_leaves_smoothing_that_is_no_part(kernels, smoothing):
    for target in LABELS, PLAIN:
        assert (
            kernels.cross_entropy_lane(PLAIN, target, None, -1, -100, smoothing, "mean", False)
            is None
        )


@pytest.mark.parametrize(
    "target",
    [PLAIN[:2].copy(), PLAIN[0].copy(), PLAIN.astype(np.float32), np.asfortranarray(PLAIN)],
    ids=["another shape", "another dimension", "another dtype", "Fortran order"],
)
def test_the_lane_of_a_loss_leaves_probabilities_that_are_not_plain(kernels, target):
    assert kernels.cross_entropy_lane(PLAIN, target, None, -1, -100, 0.0, "mean", True) is None


@pytest.mark.parametrize("k", [0, -1, 5, 10**30, 2.0, True, None])
def test_the_lane_of_the_largest_leaves_a_count_that_is_none(kernels, k):
    assert kernels.top_k_lane(PLAIN, k, -1, False) is None


def test_the_lane_of_the_largest_leaves_a_log_that_is_no_bool(kernels):
    assert kernels.top_k_lane(PLAIN, 2, -1, 1) is None


@pytest.mark.parametrize("factor", [0.0, -1.0, np.inf, np.nan, 2, np.float64(2), "2"])
def test_the_lane_of_second_derivatives_leaves_a_factor_that_is_none(kernels, factor):
    assert kernels.softmax_grad_hess_lane(PLAIN, LABELS, None, factor) is None


def test_the_lane_of_second_derivatives_leaves_what_has_not_two_dimensions(kernels):
    assert kernels.softmax_grad_hess_lane(PLAIN[0].copy(), np.array(1), None, None) is None
    assert kernels.softmax_grad_hess_lane(PLAIN[np.newaxis], LABELS[np.newaxis], None, None) is None


def assert_all_identical(got, wanted):
    for one, other in zip(got, wanted, strict=True):
        assert type(one) is type(other)
        assert_identical(one, other)


class WithoutLanes:
    """Kernels that leave every call to the general way."""

    def __init__(self, kernels):
        self._kernels = kernels

    def __getattr__(self, name):
        return (lambda *_: None) if name.endswith("_lane") else getattr(self._kernels, name)


@pytest.mark.skipif(not COMPILED, reason="there are no compiled kernels")
@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(2, 3, 50), (3, 50), (50,)])
def test_the_lanes_of_decisions_and_losses_give_what_the_general_way_gives(name, dtype, shape):
    kernels = _backend.get(name)
    functions = Functions(WithoutLanes(kernels))
    rows = np.random.default_rng(0).normal(0.0, 5.0, shape).astype(dtype)
    labels = np.arange(rows.size // 50).reshape(shape[:-1])
    # Weights of few digits, whose sum is exact in any order.
    weights = None, np.zeros(50), np.arange(50) / 16, np.ldexp(np.arange(1.0, 51), -1070)
    ignored = -100, 1, int(labels.flat[0])  # none of them, one of them, or the first
    for axis in range(len(shape)):
        x = np.ascontiguousarray(np.moveaxis(rows, -1, axis))
        wanted = functions.predict(x, axis, return_confidence=True)
        assert_all_identical(kernels.predict_lane(x, axis - x.ndim, True), wanted)
        for k, log in itertools.product((1, 3, 50), (False, True)):
            wanted = functions.top_k(x, k, axis, log=log)
            assert_all_identical(kernels.top_k_lane(x, k, axis, log), wanted)
        for weight, ignore_index, reduction in itertools.product(
            weights, ignored, ("mean", "sum", "none")
        ):
            options = {"axis": axis, "ignore_index": ignore_index, "reduction": reduction}
            wanted = functions.nll_loss(x, labels, weight, **options)
            got = kernels.nll_loss_lane(x, labels, weight, axis, ignore_index, reduction)
            assert_all_identical([got], [wanted])
            for target, smoothing in itertools.product(
                (labels, functions.softmax(x, axis)), (0.0, 0.1)
            ):
                wanted = functions.cross_entropy(
                    x, target, weight, **options, label_smoothing=smoothing, return_grad=True
                )
                got = kernels.cross_entropy_lane(
                    x, target, weight, axis, ignore_index, smoothing, reduction, True
                )
                assert_all_identical(got, wanted)
        wanted = functions.softmax_logsumexp(x, axis)
        assert_all_identical(kernels.softmax_logsumexp_lane(x, axis, None), wanted)
        for source, out in ((x, np.zeros_like(x)), [x.copy()] * 2):
            got = kernels.softmax_logsumexp_lane(source, axis, out)
            assert got[0] is out
            assert_all_identical(got, wanted)
        grad = np.ones_like(x)
        for function in ("softmax_backward", "log_softmax_backward"):
            wanted = getattr(functions, function)(grad, x, axis)
            lane = getattr(kernels, f"{function}_lane")
            np.testing.assert_array_equal(lane(grad, x, axis, None), wanted)
            for out in (np.zeros_like(x), x.copy()):
                assert lane(grad, x, axis, out) is out
                np.testing.assert_array_equal(out, wanted)
    if len(shape) == 2:
        for factor, weight in itertools.product((None, 2.5), (None, np.array([0.0, 3.0, 0.1]))):
            assert_all_identical(
                kernels.softmax_grad_hess_lane(rows, labels, weight, factor),
                functions.softmax_grad_hess(rows, labels, weight, factor=factor),
            )


@pytest.mark.skipif(not COMPILED, reason="there are no compiled kernels")
@pytest.mark.parametrize("name", COMPILED)
@pytest.mark.parametrize("make", [np.ndarray.tolist, lambda x: np.repeat(x, 2, 1)[:, ::2]])
def test_the_lanes_of_decisions_and_losses_take_what_is_soon_plain(name, make):
    kernels, x = _backend.get(name), make(PLAIN)

    def results(x):
        return (
            *kernels.predict_lane(x, -1, True),
            *kernels.top_k_lane(x, 2, -1, False),
            *kernels.cross_entropy_lane(x, LABELS, None, -1, 9, 0.0, "mean", True),
            kernels.nll_loss_lane(x, LABELS, None, -1, 9, "mean"),
            *kernels.softmax_logsumexp_lane(x, -1, None),
            *kernels.softmax_grad_hess_lane(x, LABELS, None, None),
        )

    assert_all_identical(results(x), results(PLAIN))
