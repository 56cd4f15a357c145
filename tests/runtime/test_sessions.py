"""Sessions: what can go wrong when one is made, and what importing them leaves on disk."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from mistralrs_onnx.runtime import sessions
from mistralrs_onnx.runtime.containers import Container
from mistralrs_onnx.runtime.errors import PackageError
from mistralrs_onnx.runtime.sessions import make_session, num_processors, runtime_library


def test_a_file_that_is_no_graph_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x0a nonsense")
    with pytest.raises(PackageError, match=r"cannot load .*broken\.onnx"):
        make_session(tmp_path / "broken.onnx")


def test_nothing_about_the_user_is_noted_down(smollm2, tmp_path: Path) -> None:
    """The runtime library keeps a device id and events under the home folder unless told not to."""
    code = (
        "import sys; from pathlib import Path; from mistralrs_onnx.runtime.sessions import make_session\n"
        "make_session(Path(sys.argv[1]))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code, smollm2.engine("float32")], env=environment, check=True)
    assert list(tmp_path.rglob("*")) == []


def test_threads_are_what_this_process_may_use() -> None:
    assert 1 <= num_processors() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(("quota", "expected"), [("150000 100000", 1), ("10000 100000", 1), ("99900000 100000", None)])
def test_a_container_gives_a_share_of_processors(tmp_path: Path, quota: str, expected: int | None) -> None:
    (tmp_path / "cpu.max").write_text(quota)
    (tmp_path / "own").write_text("0::/\n")
    allowed = num_processors(Container(tmp_path / "none", tmp_path / "own"))
    assert num_processors(Container(tmp_path, tmp_path / "own")) == min(allowed, expected or allowed)


@pytest.fixture(autouse=True)
def forget_the_library() -> Iterator[None]:
    runtime_library.cache_clear()
    yield
    runtime_library.cache_clear()


def test_two_builds_in_each_others_way_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_is_installed", lambda name: True)
    with pytest.raises(PackageError, match="overwrite each other: pip uninstall both"):
        runtime_library()


def test_a_missing_runtime_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(PackageError, match=r"pip install 'mistralrs-onnx\[cpu\]'"):
        runtime_library()


def test_an_old_runtime_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", SimpleNamespace(__version__="1.31.1"))
    with pytest.raises(PackageError, match=r"onnxruntime 1\.31\.1 is too old"):
        runtime_library()
