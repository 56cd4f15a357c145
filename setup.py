"""Compiles the kernels of runtime/native where they can run; without a C++ compiler everything is installed but them.

All else about the project is in pyproject.toml.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from sysconfig import get_platform

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

FOLDER = Path("runtime/native")
FLAGS = "-std=c++17 -O3 -fPIC -pthread -fvisibility=hidden -Wno-maybe-uninitialized -Wno-uninitialized"
KERNELS = Extension(
    "mistralrs_onnx.runtime.native._kernels",
    [path.as_posix() for path in sorted(FOLDER.glob("*.cpp"))],
    depends=[path.as_posix() for path in sorted(FOLDER.glob("*.h"))],
    optional=True,
)


class BuildKernels(build_ext):
    """With $CXX or g++ alone: the library is no module and has no use for Python's headers, flags and suffix."""

    def get_ext_filename(self, fullname: str) -> str:
        return f"{fullname.replace('.', os.sep)}.so"

    def build_extension(self, ext: Extension) -> None:
        target = Path(self.build_lib, self.get_ext_filename(ext.name))
        for old in (target, FOLDER / target.name) if self.editable_mode else (target,):
            old.unlink(missing_ok=True)  # of other sources
        target.parent.mkdir(parents=True, exist_ok=True)
        compiler = os.environ.get("CXX") or "g++"  # clang does not know the pragmas
        command = shlex.split(f"{compiler} {FLAGS}")
        objects = [Path(self.build_temp, f"{Path(source).stem}.o") for source in ext.sources]
        Path(self.build_temp).mkdir(parents=True, exist_ok=True)
        try:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                list(pool.map(lambda *files: run([*command, "-c", "-o", *files]), objects, ext.sources))
            run([*command, "-shared", "-s", "-o", target, *objects])
        except (OSError, subprocess.CalledProcessError):
            self.warn(f"{compiler} does not compile {FOLDER}: stock operators do its work, more slowly")


def run(command: Sequence[str | Path]) -> None:
    subprocess.run(command, check=True)


class WheelOfAnyPython(bdist_wheel):
    """The kernels are for a platform, but for no version of Python."""

    def get_tag(self) -> tuple[str, str, str]:
        *_, platform = super().get_tag()
        return "py3", "none", platform


setup(
    ext_modules=[KERNELS] if get_platform() == "linux-x86_64" else [],
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": WheelOfAnyPython},
)
