"""The sdist and the wheel hold what they should and no more, and the wheel works on its own."""

import email
import fnmatch
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement

import fastsoftmax
from fastsoftmax import _backend

ROOT = Path(__file__).resolve().parents[1]
TOP = {
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "LICENSE",
    "MANIFEST.in",
    "README.md",
    "pyproject.toml",
    "setup.py",
}
FOLDERS = ("benchmarks", "docs", "examples", "fastsoftmax", "src", "tests", "tools")
BUILT = ("*.so", "*.pyd", "*.o", "*.pyc", "*__pycache__*", "*/.*", "fastsoftmax/_core.c*", "*.html")


def run(python: str | Path, *arguments: str | Path, cwd: Path, **environment: str):
    """Run a Python that is to find nothing but what is installed for it."""
    ours = ("FASTSOFTMAX_", "PYTHON", "CC", "CFLAGS")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return subprocess.run(
        [python, *arguments],
        cwd=cwd,
        env=inherited | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def succeed(*arguments, **options) -> str:
    done = run(*arguments, **options)
    assert done.returncode == 0, done.stdout
    return done.stdout


def new_environment(folder: Path) -> Path:
    """The interpreter of a new virtual environment with nothing in it."""
    venv.create(folder, symlinks=os.name != "nt")
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the project, with whatever builds have left behind in it."""
    copy = tmp_path_factory.mktemp("checkout")
    for name in TOP:
        shutil.copy(ROOT / name, copy)
    for folder in FOLDERS:
        if (ROOT / folder).exists():
            shutil.copytree(ROOT / folder, copy / folder)
    return copy


@pytest.fixture(scope="module")
def sdist(checkout, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    options = ("--sdist", "--no-isolation", "--outdir", folder)
    succeed(sys.executable, "-m", "build", *options, cwd=checkout)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def unpacked(sdist, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(sdist) as archive:
        # Not every Python 3.11 has this filter; those that do not ignore the attribute.
        archive.extraction_filter = getattr(tarfile, "data_filter", None)
        archive.extractall(folder)
    (source,) = folder.iterdir()
    return source


def build_wheel(source: Path, folder: Path, **environment: str):
    """The end of a build of a wheel, from a copy of the source, into the folder."""
    copy = shutil.copytree(source, folder / "source")
    options = ("--wheel", "--no-isolation", "--outdir", folder / "dist")
    return run(sys.executable, "-m", "build", *options, cwd=copy, **environment)


@pytest.fixture(scope="module")
def hasty_compiler(tmp_path_factory) -> dict[str, str]:
    """What to set for a compiler that spends no minute on optimising, or inlining as it is told."""
    if os.name == "nt":
        return {}
    script = tmp_path_factory.mktemp("compiler") / "cc"
    flags = "-O0 -Dalways_inline=unused"
    script.write_text(f'#!/bin/sh\nexec {sysconfig.get_config_var("CC")} "$@" {flags}\n')
    script.chmod(0o755)
    return {"CC": str(script)}


@pytest.fixture(scope="module")
def wheel(unpacked, hasty_compiler, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    require = "1" if len(_backend.available()) > 1 else ""
    done = build_wheel(unpacked, folder, FASTSOFTMAX_REQUIRE_EXTENSION=require, **hasty_compiler)
    assert done.returncode == 0, done.stdout
    (built,) = (folder / "dist").iterdir()
    return built


def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def modules() -> set[str]:
    """The files of the package that are installed as they are."""
    found = [path for pattern in ("*.py", "*.pyi") for path in (ROOT / "fastsoftmax").glob(pattern)]
    return {"fastsoftmax/py.typed", *(f"fastsoftmax/{path.name}" for path in found)}


def test_the_sdist_holds_the_sources_and_nothing_else(checkout, sdist):
    sources = {
        path.relative_to(checkout).as_posix()
        for folder in FOLDERS
        for path in (checkout / folder).rglob("*")
        if path.is_file()
    }
    sources = {path for path in sources if not any(fnmatch.fnmatch(path, p) for p in BUILT)}
    with tarfile.open(sdist) as archive:
        files = {member.name.partition("/")[2] for member in archive if member.isfile()}
    generated = {name for name in files if name.startswith("fastsoftmax.egg-info/")}
    assert files - generated == sources | TOP | {"PKG-INFO", "setup.cfg"}


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    files = contents(wheel)
    extension = {name for name in files if re.fullmatch(r"fastsoftmax/_core\..*(so|pyd)", name)}
    assert len(extension) == (len(_backend.available()) > 1)
    info = f"fastsoftmax-{fastsoftmax.__version__}.dist-info/"
    about = {name for name in files if name.startswith(info)}
    assert files - about - extension == modules()
    assert {"METADATA", "WHEEL", "RECORD", "licenses/LICENSE"} <= {
        n.removeprefix(info) for n in about
    }


def test_the_wheel_needs_numpy_and_nothing_else(wheel):
    with zipfile.ZipFile(wheel) as archive:
        info = f"fastsoftmax-{fastsoftmax.__version__}.dist-info/METADATA"
        metadata = email.message_from_bytes(archive.read(info))
    needed = [Requirement(r) for r in metadata.get_all("Requires-Dist")]
    assert [r.name for r in needed if r.marker is None] == ["numpy"]
    assert metadata["Version"] == fastsoftmax.__version__
    assert metadata["Requires-Python"] == ">=3.10"
    assert metadata["License-Expression"] == "BSD-3-Clause"
    assert "softmax" in metadata.get_payload()


@pytest.fixture
def install(tmp_path):
    """Install a wheel beside NumPy in an otherwise empty environment; give its interpreter."""

    def install(wheel: Path) -> Path:
        python = new_environment(tmp_path / "environment")
        where = succeed(
            python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path
        )
        numpy = Path(np.__file__).parent
        for library in (numpy, numpy.with_name("numpy.libs")):
            if library.exists():
                (Path(where.strip()) / library.name).symlink_to(library)
        options = ("install", "--quiet", "--no-index", "--no-deps", wheel)
        succeed(sys.executable, "-m", "pip", "--python", python, *options, cwd=tmp_path)
        return python

    return install


SMOKE = """
import fastsoftmax, numpy, sys
assert fastsoftmax.__file__.startswith(sys.prefix), fastsoftmax.__file__
x = numpy.array([[0.0, -40.0], [1000.0, 1000.0]])
for axis in (0, 1):
    numpy.testing.assert_allclose(fastsoftmax.softmax(x, axis).sum(axis), 1.0, rtol=1e-15)
assert fastsoftmax.log_softmax(x, 1)[0, 0] == -4.248354255291589e-18
assert fastsoftmax.logsumexp(x.astype("f4"), 1)[1] == numpy.float32(1000 + numpy.log(2))
print(fastsoftmax.show_config("dicts")["backend"])
"""


def test_the_wheel_works_in_an_empty_environment(wheel, install, tmp_path):
    python = install(wheel)
    assert succeed(python, "-c", SMOKE, cwd=tmp_path).strip() == _backend.available()[0]
    assert "--json" in succeed(python, "-m", "fastsoftmax", "--help", cwd=tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="there CC does not choose the compiler")
def test_without_a_compiler_the_build_says_that_it_falls_back_to_numpy(unpacked, install, tmp_path):
    done = build_wheel(unpacked, tmp_path, CC="no-such-compiler")
    assert done.returncode == 0, done.stdout
    assert re.search("falls? back to NumPy", done.stdout)
    (wheel,) = (tmp_path / "dist").iterdir()
    assert {name for name in contents(wheel) if ".dist-info/" not in name} == modules()
    assert succeed(install(wheel), "-c", SMOKE, cwd=tmp_path).strip() == "numpy"


@pytest.mark.skipif(os.name == "nt", reason="there CC does not choose the compiler")
def test_a_required_extension_that_cannot_be_built_is_an_error(unpacked, tmp_path):
    environment = {"CC": "no-such-compiler", "FASTSOFTMAX_REQUIRE_EXTENSION": "1"}
    done = build_wheel(unpacked, tmp_path, **environment)
    assert done.returncode != 0
    assert "no-such-compiler" in done.stdout
    assert not list((tmp_path / "dist").glob("*.whl"))
