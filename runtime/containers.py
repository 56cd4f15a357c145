"""What a container may take of its machine: limits of memory and processors, as Linux keeps them (cgroup 1 and 2)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

ROOT, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
UNBOUNDED = 1 << 60  # cgroup 1 writes its largest number for no limit


class MemoryBound(NamedTuple):
    """Bytes: the limit, and what is taken of it and cannot be given back at once."""

    limit: int
    used: int

    @property
    def room(self) -> int:
        return max(self.limit - self.used, 0)


@dataclass(frozen=True, slots=True)
class Container:
    """Where limits are read. A process is bound by those of its group and of every group around it."""

    root: Path = ROOT
    own: Path = OWN

    def memory(self) -> MemoryBound | None:
        """The bound that leaves least room; None where there is none."""
        bounds = [bound for folder in self._folders("memory") if (bound := _memory_bound(folder)) is not None]
        return min(bounds, key=lambda bound: bound.room, default=None)

    def processors(self) -> float | None:
        """How many processors' time it may take; None for all."""
        shares = [share for folder in self._folders("cpu") if (share := _share(folder)) is not None]
        return min(shares, default=None)

    def _folders(self, controller: str) -> Iterator[Path]:
        for line in _text(self.own).splitlines():
            number, _, rest = line.partition(":")
            names, _, path = rest.partition(":")
            if controller in names.split(","):
                yield from _upwards(self.root / controller, path)
            elif number == "0":
                yield from _upwards(self.root, path)


def _upwards(root: Path, path: str) -> Iterator[Path]:
    """Inside a container the path may be that of the machine, of which only the root is seen."""
    inside = PurePosixPath(path.lstrip("/"))
    yield from (root / each for each in (inside, *inside.parents) if ".." not in each.parts)


def _memory_bound(folder: Path) -> MemoryBound | None:
    for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
        bytes_limit, bytes_used = _number(folder / limit), _number(folder / used)
        if bytes_limit is not None and bytes_used is not None and bytes_limit < UNBOUNDED:
            return MemoryBound(bytes_limit, max(bytes_used - _reclaimable(folder), 0))
    return None


def _reclaimable(folder: Path) -> int:
    """Copies of files that nobody has used for a while."""
    values = dict(line.split(maxsplit=1) for line in _text(folder / "memory.stat").splitlines() if " " in line)
    return int(values.get("total_inactive_file", values.get("inactive_file", "0")))


def _share(folder: Path) -> float | None:
    quota, _, period = _text(folder / "cpu.max").strip().partition(" ")
    if quota.isdigit() and period.isdigit():
        return int(quota) / int(period)
    microseconds, of = _number(folder / "cpu.cfs_quota_us"), _number(folder / "cpu.cfs_period_us")
    return microseconds / of if microseconds and of else None


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
