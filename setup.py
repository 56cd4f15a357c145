"""Compiles the kernels of runtime/native where they can run; without a C++ compiler everything is installed but them.

All else about the project is in pyproject.toml.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path
from sysconfig import get_platform

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

FOLDER = Path("runtime/native")
FLAGS = "-std=c++17 -O3 -fPIC -pthread -fvisibility=hidden -Wno-maybe-uninitialized -Wno-uninitialized -shared -s"
KERNELS = Extension(
    "mistralrs_onnx.runtime.native._kernels",
    [path.as_posix() for path in sorted(FOLDER.glob("*.cpp"))],
    depends=[path.as_posix() for path in sorted(FOLDER.glob("*.h"))],
    optional=True,
)


class BuildKernels(build_ext):
    """One run of $CXX or g++: the library is no module and has no use for Python's headers, flags and suffix."""

    def get_ext_filename(self, fullname: str) -> str:
        return f"{fullname.replace('.', os.sep)}.so"

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.build_lib, self.get_ext_filename(ext.name))
        for old in (target, FOLDER / target.name) if self.editable_mode else (target,):
            old.unlink(missing_ok=True)  # of other sources
        target.parent.mkdir(parents=True, exist_ok=True)
        compiler = os.environ.get("CXX") or "g++"  # clang does not know the pragmas
        try:
            subprocess.run([*shlex.split(compiler), *FLAGS.split(), "-o", target, *ext.sources], check=True)
        except (OSError, subprocess.CalledProcessError):
            self.warn(f"{compiler} does not compile {FOLDER}: stock operators do its work, more slowly")


class WheelOfAnyPython(bdist_wheel):
    """The kernels are for a platform, but for no version of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        *_, platform = super().get_tag()
        return "py3", "none", platform


setup(
    ext_modules=[KERNELS] if get_platform() == "linux-x86_64" else [],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": WheelOfAnyPython},
)
