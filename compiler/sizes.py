"""Numbers of bytes for people."""

from __future__ import annotations


def size_text(num_bytes: int) -> str:
    """1536 as `1.5 KiB`."""
    size = float(num_bytes)
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"
