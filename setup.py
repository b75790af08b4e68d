"""Builds the compiled kernels; everything else about the package is in pyproject.toml.

Without a working C compiler the build goes on and leaves the kernels out: fastsoftmax then computes
with NumPy. FASTSOFTMAX_REQUIRE_EXTENSION=1 makes that an error.

OpenMP is used if the compiler has it. Without it, the kernels' threads know no limit that is set on
OpenMP's within a process; on Windows, there are none then.
"""

import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from glob import glob
from pathlib import Path

import numpy
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import BaseError, CCompilerError

# No flag names an instruction set: each file under src/isa/ selects its own. Contraction is off so
# that each of them computes exactly what its source says. The kernels' loops are long and few:
# where one begins in a line of the instruction cache made up to 12 % of difference. Of what
# Python's flags tell a debugger, line numbers are kept: the rest takes as long as to compile.
UNIX_FLAGS = ["-O3", "-std=c11", "-ffp-contract=off", "-falign-loops=32", "-g1", "-pthread"]
# What GCC has for x86: to order the steps of a block before it hands out registers, and for the
# times that they take on such a processor. Its own order, made for any processor and of what
# registers were left, took up to 13 % longer, on AMD's as well.
GCC_X86_FLAGS = ["-fschedule-insns", "-fsched-pressure", "-mtune=icelake-server"]
MSVC_FLAGS = ["/O2", "/std:c11", "/fp:precise"]

# Ways to say OpenMP, to the compiler and to the linker. Apple's compiler has no library for it; the
# folders are those of Homebrew.
MSVC_OPENMP = [(["/openmp"], [])]
UNIX_OPENMP = [(["-fopenmp"], ["-fopenmp"])]
APPLE_OPENMP = [
    (["-Xpreprocessor", "-fopenmp", f"-I{folder}/include"], [f"-L{folder}/lib", "-lomp"])
    for folder in ("/opt/homebrew/opt/libomp", "/usr/local/opt/libomp")
]

USES_NOTHING = "int main(void) { return 0; }\n"
USES_OPENMP = "#include <omp.h>\nint main(void) { return omp_get_max_threads() < 1; }\n"

core = Extension(
    "fastsoftmax._core",
    sources=[
        "fastsoftmax/_core.pyx",
        "src/cpu.c",
        "src/dispatch.c",
        "src/parallel.c",
        "src/threads.c",
        "src/isa/scalar_f32.c",
        "src/isa/scalar_f64.c",
        "src/isa/neon_f16.c",
        "src/isa/neon_bf16.c",
        "src/isa/neon_f32.c",
        "src/isa/neon_f64.c",
        "src/isa/avx2_f16.c",
        "src/isa/avx2_bf16.c",
        "src/isa/avx2_f32.c",
        "src/isa/avx2_f64.c",
        "src/isa/avx512_f16.c",
        "src/isa/avx512_bf16.c",
        "src/isa/avx512_f32.c",
        "src/isa/avx512_f64.c",
    ],
    depends=[
        "fastsoftmax/_core.pxd",
        "fastsoftmax/_plain.pxd",
        *sorted(glob("src/**/*.h", recursive=True)),
    ],
    include_dirs=["src", numpy.get_include()],
    define_macros=[("NPY_NO_DEPRECATED_API", "NPY_2_0_API_VERSION")],
    optional=os.environ.get("FASTSOFTMAX_REQUIRE_EXTENSION", "") in ("", "0"),
)


class BuildExtension(build_ext):
    """build_ext with the flags in the compiler's own spelling, and plain words about a failure."""

    def build_extension(self, ext):
        is_msvc = self.compiler.compiler_type == "msvc"
        flags = MSVC_FLAGS if is_msvc else UNIX_FLAGS
        if not is_msvc and self.builds(USES_NOTHING, [*GCC_X86_FLAGS, "-Werror"], []):
            flags = flags + GCC_X86_FLAGS
        compile_openmp, link_openmp = self.openmp(is_msvc)
        ext.extra_compile_args = flags + compile_openmp
        ext.extra_link_args = ([] if is_msvc else ["-pthread", "-lm"]) + link_openmp
        compile_all = self.compiler.compile

        def compile_side_by_side(sources, **options):
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                objects = pool.map(lambda source: compile_all([source], **options), sources)
                return [name for names in objects for name in names]

        if not is_msvc:  # whose compiler object is set up by the first file
            self.compiler.compile = compile_side_by_side
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

    def builds(self, program, compile_flags, link_flags):
        """Whether a program can be built with these flags."""
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "program.c")
            source.write_text(program, encoding="ascii")
            try:
                objects = self.compiler.compile(
                    [str(source)], output_dir=folder, extra_postargs=compile_flags
                )
                self.compiler.link_executable(
                    objects, "program", output_dir=folder, extra_postargs=link_flags
                )
            except (BaseError, CCompilerError):
                return False
            return True

    def openmp(self, is_msvc):
        """The flags with which a program that uses OpenMP can be built; none if it cannot."""
        ways = MSVC_OPENMP if is_msvc else UNIX_OPENMP
        if sys.platform == "darwin":
            ways = ways + APPLE_OPENMP
        for compile_flags, link_flags in ways:
            if self.builds(USES_OPENMP, compile_flags, link_flags):
                return compile_flags, link_flags
        print("fastsoftmax: the compiler has no OpenMP.", file=sys.stderr)
        return [], []


setup(ext_modules=[core], cmdclass={"build_ext": BuildExtension})
