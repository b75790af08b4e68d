"""The examples run, on real data, and their figures say what their texts say."""

import re
from pathlib import Path

import pytest

import child

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture
def figures(tmp_path):
    """Run an example; give the figures it prints, by name, once its picture is there."""

    def run(name: str) -> dict[str, float]:
        shown = child.output(
            EXAMPLES / f"{name}.py",
            "--output",
            tmp_path,
            cwd=tmp_path,
            MPLBACKEND="agg",
            MPLCONFIGDIR=str(tmp_path / "matplotlib"),
        )
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        found = re.findall(r"^(\S.*?) {2,}([-+.\de]+|nan|inf)$", shown, re.M)
        return {name: float(value) for name, value in found}

    return run


def test_every_example_is_tested():
    source = Path(__file__).read_text()
    for example in EXAMPLES.glob("*.py"):
        assert f'figures("{example.stem}")' in source


def test_what_softmax_does(figures):
    found = figures("what_softmax_does")
    assert found["held-out wines"] == 89
    assert found["accuracy"] > 0.9
    assert found["smallest softmax value"] > 0
    assert found["largest distance of a sum from 1"] < 1e-15
    assert found["largest change by a shift of all"] < 1e-14
    assert found["decisions changed by a temperature"] == 0


def test_not_a_probability(figures):
    found = figures("not_a_probability")
    assert found["accuracy"] > 0.9
    assert found["mean of the largest softmax value"] > found["accuracy"] + 0.03
    assert found["temperature"] > 2
    assert found["calibration error after"] < found["calibration error before"] / 2
    assert found["mean log-loss after"] < found["mean log-loss before"] / 2
    assert found["decisions changed"] == 0


def test_why_log_softmax(figures):
    found = figures("why_log_softmax")
    fused, two_steps, naive = "cross_entropy(x)", "-log(softmax(x))", "-log(exp(x) / sum)"
    assert found[f"{fused}: losses not finite"] == 0
    assert found[f"{fused}: mean"] == pytest.approx(3.2, rel=0.3)
    assert found[f"{two_steps}: losses not finite"] > 0
    assert found[f"{two_steps}: losses of 0"] > 2 * found[f"{fused}: losses of 0"]
    assert found[f"{naive}: losses not finite"] == found["held-out digits"]
    assert found["largest loss"] > 104  # -log of the smallest float32


def test_training(figures):
    found = figures("training")
    assert found["largest difference from scikit-learn's"] < 1e-4
    assert found["largest coefficient"] > 1
    for name in ("log-loss", "accuracy"):
        ours, theirs = (found[f"held-out {name}, {who}"] for who in ("ours", "scikit-learn's"))
        assert ours == pytest.approx(theirs, rel=1e-5)
    assert found["held-out accuracy, ours"] > 0.94
    assert found["held-out log-loss, ours"] < 0.3
