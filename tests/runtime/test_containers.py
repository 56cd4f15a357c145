"""Limits of containers, read from folders like those of Linux."""

from __future__ import annotations

from pathlib import Path

import pytest

from mistralrs_onnx.runtime.containers import Container, MemoryBound


def container(tmp_path: Path, own: str, files: dict[str, str]) -> Container:
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    (tmp_path / "own").write_text(own)
    return Container(tmp_path / "cgroup", tmp_path / "own")


def test_no_container_no_bound(tmp_path: Path) -> None:
    nothing = Container(tmp_path / "cgroup", tmp_path / "own")
    assert (nothing.memory(), nothing.processors()) == (None, None)


def test_version_2(tmp_path: Path) -> None:
    files = {
        "memory.max": "4000",
        "memory.current": "1500",
        "memory.stat": "anon 900\ninactive_file 500",
        "cpu.max": "150000 100000",
    }
    found = container(tmp_path, "0::/\n", files)
    assert (found.memory(), found.processors()) == (MemoryBound(4000, 1000), 1.5)
    assert found.memory().room == 3000


def test_version_2_without_limits(tmp_path: Path) -> None:
    found = container(tmp_path, "0::/\n", {"memory.max": "max", "memory.current": "15", "cpu.max": "max 100000"})
    assert (found.memory(), found.processors()) == (None, None)


def test_groups_around_it_bind_too(tmp_path: Path) -> None:
    files = {
        "a/b/memory.max": "4000",
        "a/b/memory.current": "1000",
        "a/memory.max": "2500",
        "a/memory.current": "2000",
        "a/b/cpu.max": "max 100000",
        "a/cpu.max": "200000 100000",
    }
    found = container(tmp_path, "0::/a/b\n", files)
    assert (found.memory(), found.processors()) == (MemoryBound(2500, 2000), 2.0)


@pytest.mark.parametrize("own", ["/docker/12ab", "/", "/../other"])
def test_version_1_where_only_the_root_is_seen(tmp_path: Path, own: str) -> None:
    files = {
        "memory/memory.limit_in_bytes": "4000",
        "memory/memory.usage_in_bytes": "1500",
        "memory/memory.stat": "total_inactive_file 500\ninactive_file 1",
        "cpu/cpu.cfs_quota_us": "50000",
        "cpu/cpu.cfs_period_us": "100000",
    }
    found = container(tmp_path, f"4:memory:{own}\n2:cpu,cpuacct:{own}\n0::/\n", files)
    assert (found.memory(), found.processors()) == (MemoryBound(4000, 1000), 0.5)


def test_version_1_without_limits(tmp_path: Path) -> None:
    files = {
        "memory/memory.limit_in_bytes": "9223372036854771712",
        "memory/memory.usage_in_bytes": "15",
        "cpu/cpu.cfs_quota_us": "-1",
        "cpu/cpu.cfs_period_us": "100000",
    }
    found = container(tmp_path, "4:memory:/\n2:cpu:/\n", files)
    assert (found.memory(), found.processors()) == (None, None)


def test_more_is_used_than_is_allowed(tmp_path: Path) -> None:
    found = container(tmp_path, "0::/\n", {"memory.max": "10", "memory.current": "15"})
    assert found.memory().room == 0
