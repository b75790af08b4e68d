"""What users see of an installation: show_config, and the job that `python -m fastsoftmax` does."""

import functools
import json

import numpy as np
import pytest

import child
import fastsoftmax
from fastsoftmax import _backend, _selfcheck, _timing
from fastsoftmax.__main__ import main


def test_show_config_says_what_is_in_force(capsys):
    config = fastsoftmax.show_config(mode="dicts")
    assert config["fastsoftmax"] == fastsoftmax.__version__
    assert config["backend"] == _backend.ACTIVE.kernels.name
    assert tuple(config["backends"]) == _backend.BACKENDS
    assert json.loads(json.dumps(config)) == config
    assert capsys.readouterr().out == ""

    assert fastsoftmax.show_config() is None
    shown = capsys.readouterr().out
    for mention in (
        fastsoftmax.__version__,
        config["backend"],
        config["reason"],
        *_backend.BACKENDS,
    ):
        assert mention in shown


@pytest.mark.parametrize("mode", ["dict", "", None, 1])
def test_show_config_knows_two_modes(mode):
    with pytest.raises(ValueError, match=r"mode .*stdout.*dicts"):
        fastsoftmax.show_config(mode)


def test_the_check_passes_on_each_backend(api):
    errors = _selfcheck.worst_errors(api, step=lambda description: None)
    assert set(errors) == {"softmax", "log_softmax", "logsumexp"}
    for by_dtype in errors.values():
        assert set(by_dtype) == {"float32", "float64"}
        assert 0 < max(by_dtype.values()) <= _selfcheck.ULP_BOUND
    assert _selfcheck.wrong_special_values(api) == []


def change(function, how):
    """`function` with its results changed."""
    return functools.wraps(function)(lambda *args, **kwargs: how(function(*args, **kwargs)))


@pytest.fixture
def quick(monkeypatch):
    """Time little, briefly."""
    monkeypatch.setattr(_timing, "WORKS", [w for w in _timing.WORKS if w.shape == (10,)])
    monkeypatch.setattr(_timing, "measure", functools.partial(_timing.measure, seconds=1e-3))


def test_the_job_reports_accuracy_and_time(quick, capsys, tmp_path):
    report, picture = tmp_path / "report.json", tmp_path / "picture.png"
    assert main(["--json", str(report), "--plot", str(picture)]) == 0
    shown = capsys.readouterr().out
    for mention in ("backend in force", "ULP", "softmax", "logsumexp", "NumPy", "SciPy"):
        assert mention in shown
    figures = json.loads(report.read_text())
    assert figures["config"] == fastsoftmax.show_config(mode="dicts")
    assert figures["worst_ulp"]["softmax"]["float32"] <= _selfcheck.ULP_BOUND
    assert len(figures["timings"]) == 6
    for timing in figures["timings"]:
        assert set(timing["seconds"]) == {"fastsoftmax", "NumPy", "SciPy"}
        assert min(timing["seconds"].values()) > 0
    assert picture.read_bytes().startswith(b"\x89PNG")


WRONG = {
    "a few digits": ("softmax", lambda y: y * y.dtype.type(1 + 1e-6)),
    "a few digits of a sum": ("logsumexp", lambda y: y + y.dtype.type(1e-5)),
    "nan": ("log_softmax", np.nan_to_num),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_the_job_fails_when_something_is_wrong(quick, capsys, monkeypatch, tmp_path, wrong):
    function, how = WRONG[wrong]
    monkeypatch.setattr(fastsoftmax, function, change(getattr(fastsoftmax, function), how))
    report = tmp_path / "report.json"
    assert main(["--json", str(report)]) == 1
    complaint = capsys.readouterr().err
    assert "failed" in complaint
    assert f"{function} " in complaint
    assert not report.exists()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--json", "no/such/folder/report.json"], "cannot write no/such/folder/report.json"),
        (["--plot", "picture.jpg"], "png"),
        (["--fast"], "--fast"),
    ],
)
def test_the_job_refuses_what_it_cannot_do(capsys, monkeypatch, tmp_path, arguments, complaint):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    assert exit_.value.code == 2
    assert complaint in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_it_is_a_module_to_run():
    shown = child.output("-m", "fastsoftmax", "--help")
    assert "python -m fastsoftmax" in shown
    assert "--json" in shown
    assert "--plot" in shown
