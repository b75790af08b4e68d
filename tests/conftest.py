"""Every backend of this machine as an object, or the one in force; the tests' randomness pinned."""

import os

import hypothesis
import pytest

from fastsoftmax import _backend
from fastsoftmax._functions import Functions

# Where the environment names a backend, the objects of others would be no different for it.
NAMED = os.environ.get("FASTSOFTMAX_BACKEND")

REQUIRED = frozenset(filter(None, os.environ.get("FASTSOFTMAX_REQUIRE", "").split(",")))

hypothesis.settings.register_profile(
    "fastsoftmax",
    database=None,
    deadline=None,
    derandomize=True,
    max_examples=50,
)
hypothesis.settings.load_profile("fastsoftmax")


def pytest_configure() -> None:
    unknown = REQUIRED.difference(_backend.BACKENDS)
    if unknown:
        raise pytest.UsageError(
            f"FASTSOFTMAX_REQUIRE names {', '.join(sorted(unknown))}; "
            f"the backends are {', '.join(_backend.BACKENDS)}"
        )


@pytest.fixture(scope="session", params=[NAMED] if NAMED else _backend.BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """The name of a backend that this machine has."""
    name = request.param
    if name not in _backend.available():
        give_up = pytest.fail if name in REQUIRED else pytest.skip
        give_up(f"this machine has no backend {name}; it has {', '.join(_backend.available())}")
    return name


@pytest.fixture(scope="session")
def kernels(backend: str):
    return _backend.get(backend)


@pytest.fixture(scope="session")
def api(kernels) -> Functions:
    """The public functions, on one backend."""
    return Functions(kernels)
