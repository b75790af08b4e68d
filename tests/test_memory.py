"""The kernels neither read nor write past their arrays, gaps included: see guard.c."""

import os
import shlex
import subprocess
import sysconfig
from pathlib import Path

import pytest

import child
from fastsoftmax import _backend

HERE = Path(__file__).parent

RUN = """
import ctypes, sys
from fastsoftmax import _core
guard = ctypes.CDLL(sys.argv[1]).guard
guard.argtypes = ctypes.c_void_p, ctypes.c_double
guard.restype = ctypes.c_size_t
backend_at = ctypes.cast(ctypes.CDLL(_core.__file__).fsm_backend_at, ctypes.c_void_p)
print(guard(backend_at, float(sys.argv[2])))
"""

# Of the problems that guard.c knows: a few seconds of them. tools/sanitize has all.
SHARE = 0.05


@pytest.mark.skipif(
    _backend.available() == ("numpy",) or os.name == "nt",
    reason="needs the compiled kernels, and pages that can be protected by mmap",
)
def test_kernels_stay_within_their_arrays(tmp_path):
    library = tmp_path / "guard.so"
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    options = ["-std=gnu11", "-O1", "-fPIC", "-shared", f"-I{HERE.parent / 'src'}"]
    subprocess.run([*compiler, *options, HERE / "guard.c", "-o", library, "-lm"], check=True)
    calls = int(child.output("-c", RUN, library, str(SHARE)))
    assert calls > 1000 * (len(_backend.available()) - 1)
