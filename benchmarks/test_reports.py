"""That the scripts of this folder measure errors and judge targets rightly."""

import numpy as np
import pytest

import accuracy
import calls
import oracle
import record
import special
import sweep
import targets
from fastsoftmax._timing import Timing


@pytest.mark.parametrize("ulps", [0, 4, 100])
def test_worst_error_is_that_of_the_worst_element(ulps):
    x = np.random.default_rng(0).normal(size=(3, 7)).astype(np.float32)
    exact = oracle.exact(x)

    def contestant(function, x, axis):
        wrong = exact.softmax.astype(x.dtype)
        wrong[1, 2] += ulps * np.spacing(wrong[1, 2])
        return lambda: wrong

    # Half a ULP is the rounding; the largest may be just below a power of two, the other above it.
    error = accuracy.worst_error(contestant, "softmax", x, exact)
    assert ulps - 0.5 <= error <= ulps + 0.5


def test_worst_error_of_nan_is_infinite():
    x = np.zeros((2, 3), np.float32)
    nan = np.full_like(x, np.nan)
    error = accuracy.worst_error(lambda *_: lambda: nan, "softmax", x, oracle.exact(x))
    assert error == np.inf


@pytest.mark.parametrize("length", [2, sweep.LONG])
def test_reference_of_the_sweep_is_exact_to_a_thousandth_of_an_ulp(length):
    for block in sweep.blocks(every=512):
        rows = sweep.with_zero(block[: sweep.LONG - 1], length)
        exact = oracle.exact(rows)
        for function, value in sweep.exact(rows).items():
            expected = getattr(exact, function)
            assert np.all(np.abs(value - expected) <= 1e-3 * oracle.ulp(expected, np.float32))
            np.testing.assert_array_equal(sweep.ulp(value), oracle.ulp(value, np.float32))


def test_targets_are_judged_by_the_ratio_to_the_peer():
    target = targets.TARGETS[0]
    seconds = {
        "fastsoftmax-avx512": target.avx512 * 0.99,
        "fastsoftmax-avx2": target.avx2 * 1.02,
        target.peer: 1.0,
        "scipy": 10.0,
    }
    _, row, *scipy = targets.table([Timing(target.work, seconds)])
    assert row[3].endswith(" met")
    assert row[5].endswith(" missed")
    assert scipy[0][2:] == ["0.02", "0.15 met", "", ""]
    assert scipy[1][2:] == ["", "", "0.03", "0.25 met"]
    del seconds["fastsoftmax-avx512"]
    _, row, _ = targets.table([Timing(target.work, seconds)])
    assert row[2:4] == ["–", "0.20 not measured"]


def test_each_backend_has_a_worst_of_its_own_beside_scipy():
    one, two = (target.work for target in targets.TARGETS[:2])
    timings = [
        Timing(one, {"fastsoftmax-avx512": 1.0, "fastsoftmax-avx2": 3.0, "scipy": 10.0}),
        Timing(two, {"fastsoftmax-avx512": 2.0, "fastsoftmax-avx2": 2.0, "scipy": 10.0}),
    ]
    *_, wide, narrow = targets.table(timings)
    assert wide == [f"the worst of all 2: {two}", "scipy", "0.20", "0.15 missed", "", ""]
    assert narrow == [f"the worst of all 2: {one}", "scipy", "", "", "0.30", "0.25 missed"]


def test_predict_is_judged_beside_the_softmax_of_its_backend():
    target = next(target for target in targets.LOSSES if target.peer == "softmax")
    seconds = {
        "fastsoftmax-avx512": 1.0,
        "fastsoftmax-avx2": 1.0,
        "softmax-avx512": 4.0,
        "softmax-avx2": 2.0,
    }
    _, row = targets.rows([target], [Timing(target.work, seconds)])
    assert (row[2], row[4]) == ("0.25", "0.50")


def test_put_replaces_its_block_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "ROOT", tmp_path)
    document = tmp_path / "page.md"
    document.write_text("a\n<!-- x -->\nold\n<!-- end of x -->\nb\n", encoding="utf-8")
    for _ in range(2):
        record.put("page.md", "x", ["new \\1"])
        wanted = "a\n<!-- x -->\n\nnew \\1\n\n<!-- end of x -->\nb\n"
        assert document.read_text(encoding="utf-8") == wanted
    with pytest.raises(ValueError, match=r"page\.md has 0 blocks called y"):
        record.put("page.md", "y", [])


def test_every_call_is_timed_and_judged():
    least = calls.nanoseconds(turns=1)
    assert all(0 < time < np.inf for time in least.values())
    _, reference, *rows = calls.table(least)
    assert reference[0] == "exp(x)"
    assert reference[2] == "1.00"
    assert [row[0] for row in rows] == list(targets.CALLS)[1:]
    fast = dict.fromkeys(least, 1.0) | {"exp(x)": 10.0, "softmax(x)": 11.0}
    verdicts = {row[0]: row[3] for row in calls.table(fast)}
    assert verdicts["softmax(x)"] == "1.00 missed"
    assert verdicts["softmax(x, out=out)"] == "0.50 met"


def test_every_special_value_and_option_is_timed_and_judged():
    x = np.empty((3, 4), np.float32)
    timed = special.ratios("scalar", "softmax", x, axis=0, turns=1)
    assert list(timed) == [*special.VALUES, *special.OPTIONS]
    assert all(0 < ratio < np.inf for ratio in timed.values())
    slow = dict.fromkeys(timed, special.Worst(1.7, "softmax"))
    _, *rows = special.table({"scalar": slow})
    verdicts = {row[0]: row[2] for row in rows}
    assert verdicts["all -inf"] == "1.70 missed"
    assert verdicts["all NaN"] == verdicts["temperature=, one"] == "1.70"


@pytest.mark.parametrize("name", special.VALUES)
def test_special_logits_are_what_they_are_called(name):
    x = np.zeros((8, 5), np.float32)
    special.VALUES[name][0](x, np.random.default_rng(0))
    assert np.isneginf(x).any() == ("-inf" in name)
    assert np.isposinf(x).any() == ("+inf" in name)
    assert np.isnan(x).any() == ("NaN" in name)
    if "all" not in name.split()[0]:
        assert np.isfinite(x).any(axis=0).all()
