"""Builds the compiled kernels; everything else about the package is in pyproject.toml.

Without a working C compiler the build goes on and leaves the kernels out: fastsoftmax then computes
with NumPy. FASTSOFTMAX_REQUIRE_EXTENSION=1 makes that an error.
"""

import os
import sys
from glob import glob

import numpy
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

# No flag names an instruction set: each file under src/isa/ selects its own. Contraction is off so
# that each of them computes exactly what its source says.
UNIX_FLAGS = ["-O3", "-std=c11", "-ffp-contract=off"]
MSVC_FLAGS = ["/O2", "/std:c11", "/fp:precise"]

core = Extension(
    "fastsoftmax._core",
    sources=[
        "fastsoftmax/_core.pyx",
        "src/cpu.c",
        "src/dispatch.c",
        "src/isa/scalar_f32.c",
        "src/isa/scalar_f64.c",
        "src/isa/avx2_f16.c",
        "src/isa/avx2_bf16.c",
        "src/isa/avx2_f32.c",
        "src/isa/avx2_f64.c",
        "src/isa/avx512_f16.c",
        "src/isa/avx512_bf16.c",
        "src/isa/avx512_f32.c",
        "src/isa/avx512_f64.c",
    ],
    depends=sorted(glob("src/**/*.h", recursive=True)),
    include_dirs=["src", numpy.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
    optional=os.environ.get("FASTSOFTMAX_REQUIRE_EXTENSION", "") in ("", "0"),
)


class BuildExtension(build_ext):
    """build_ext with the flags in the compiler's own spelling, and plain words about a failure."""

    def build_extension(self, ext):
        is_msvc = self.compiler.compiler_type == "msvc"
        ext.extra_compile_args = MSVC_FLAGS if is_msvc else UNIX_FLAGS
        try:
            super().build_extension(ext)
        except (BaseError, CCompilerError):
            if ext.optional:
                print(
                    "fastsoftmax: the compiled kernels could not be built; the reason follows.\n"
                    "fastsoftmax: it falls back to NumPy: the same functions, slower.\n"
                    "fastsoftmax: set FASTSOFTMAX_REQUIRE_EXTENSION=1 to make this an error.",
                    file=sys.stderr,
                )
            raise  # setuptools reports the reason, and goes on without an optional extension


setup(ext_modules=[core], cmdclass={"build_ext": BuildExtension})
