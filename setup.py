"""Builds the kernels where there is a C compiler. Without one torch does their work, and all else is there.

`pyproject.toml` has all that is not built. The library is no extension module, though it is built as one: it
needs no header of Python, has no version of it in its name, and a wheel of it fits all of them.
"""

from __future__ import annotations

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

FLAGS = [
    "-std=c11",
    "-O3",
    "-ffp-contract=off",  # a product and a sum rounded at once have other bits
    "-fno-fast-math",
    "-fno-math-errno",
    "-fno-trapping-math",  # else what is chosen between is not computed in both ways at once
    "-g0",
    "-fvisibility=hidden",
]


class BuildLibrary(build_ext):
    """A library that ctypes loads."""

    def get_ext_filename(self, ext_name: str) -> str:
        return ext_name.replace(".", "/") + ".so"

    def get_export_symbols(self, ext: Extension) -> list[str]:
        return []


class AnyPython(bdist_wheel):
    """A wheel of one platform and every Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


setup(
    ext_modules=[
        Extension(
            "diloco.compression.kernels.kernels",
            ["diloco/compression/kernels/kernels.c"],
            extra_compile_args=FLAGS,
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildLibrary, "bdist_wheel": AnyPython},
)
