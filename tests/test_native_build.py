"""What an installation has of the native kernels: the library where it can be compiled, no mishap where it cannot."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from sysconfig import get_platform

import pytest

ROOT = Path(__file__).parent.parent
NATIVE = "mistralrs_onnx/runtime/native"
HERE = pytest.mark.skipif(get_platform() != "linux-x86_64", reason="there are kernels for Linux on x86-64 only")
GUARD = 120
QUICKLY = 'exec g++ "$@" -O0'
STAND_IN = 'while [ "$1" != -o ]; do shift; done; echo compiled > "$2"'
BUILD = "import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])"  # what pip calls


def build(kind: str, source: Path, folder: Path, **environment: str) -> tuple[Path, str]:
    """The file that was built, and what was printed."""
    command = [sys.executable, "-c", BUILD.format(kind), folder]
    settings = {**os.environ, **environment}
    found = subprocess.run(command, cwd=source, env=settings, capture_output=True, text=True, timeout=GUARD, check=True)
    [file] = folder.iterdir()
    return file, found.stdout + found.stderr


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution of a checkout in which a library lies about."""
    copy, folder = tmp_path_factory.mktemp("checkout") / "source", tmp_path_factory.mktemp("archive")
    shutil.copytree(ROOT, copy, ignore=shutil.ignore_patterns(".*", "build", "dist", "tests", "*.egg-info", "docs"))
    (copy / "runtime" / "native" / "_kernels.so").write_bytes(b"of another machine")
    return build("sdist", copy, folder)[0]


@pytest.fixture
def source(archive: Path, tmp_path: Path) -> Path:
    with tarfile.open(archive) as file:
        file.extractall(tmp_path / "source", filter="data")
    [folder] = (tmp_path / "source").iterdir()
    return folder


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    folder = tmp_path / "dist"
    folder.mkdir()
    return folder


def compiler(folder: Path, script: str) -> str:
    program = folder / "compiler"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return str(program)


def natives(wheel: Path) -> set[str]:
    names = zipfile.ZipFile(wheel).namelist()
    return {name.removeprefix(f"{NATIVE}/") for name in names if name.startswith(f"{NATIVE}/")}


@HERE
@pytest.mark.skipif(not shutil.which("g++"), reason="there is no g++")
def test_a_compiler_makes_the_library(source: Path, dist: Path, tmp_path: Path) -> None:
    wheel, _ = build("wheel", source, dist, CXX=compiler(tmp_path, QUICKLY))
    assert natives(wheel) == {"__init__.py", "_kernels.so"}
    assert "-py3-none-linux_x86_64" in wheel.name, "it serves every version of Python"
    library = ctypes.CDLL(zipfile.ZipFile(wheel).extract(f"{NATIVE}/_kernels.so", dist))
    assert library.RegisterCustomOps
    library.mistralrs_instruction_set.restype = ctypes.c_char_p
    assert library.mistralrs_instruction_set() in (None, b"avx2", b"avxvnni", b"avx512", b"amx")


@HERE
@pytest.mark.parametrize("missing", ["false", "there-is-no-such-compiler"])
def test_without_a_compiler_all_else_is_installed(source: Path, dist: Path, tmp_path: Path, missing: str) -> None:
    wheel, printed = build("wheel", source, dist, CXX=missing)
    assert [missing in line for line in printed.splitlines() if "stock operators" in line] == [True]
    assert natives(wheel) == {"__init__.py"}
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel]
    subprocess.run(install, check=True, timeout=GUARD)
    code = "from mistralrs_onnx.runtime import native; print(native.__file__, native.kernel_problem())"
    told = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=GUARD,
        check=True,
    )
    assert told.stdout.startswith(str(site))
    assert "not compiled" in told.stdout


@pytest.mark.parametrize("platform", ["macosx-14.0-arm64", "linux-aarch64"])
def test_nothing_is_compiled_for_other_platforms(source: Path, dist: Path, tmp_path: Path, platform: str) -> None:
    wheel, _ = build("wheel", source, dist, CXX=compiler(tmp_path, STAND_IN), _PYTHON_HOST_PLATFORM=platform)
    assert natives(wheel) == {"__init__.py"}
    assert "-py3-none-any" in wheel.name


@HERE
def test_an_editable_installation_has_no_library_of_older_sources(source: Path, dist: Path, tmp_path: Path) -> None:
    library = source / "runtime" / "native" / "_kernels.so"
    build("editable", source, dist, CXX=compiler(tmp_path, STAND_IN))
    assert library.read_text() == "compiled\n"
    build("editable", source, dist, CXX="false")
    assert not library.exists()
