"""What the CPU that runs the tests is like."""

from __future__ import annotations

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
# Kernels of quantized matmuls for AVX-512 compute a row alone as they do several, for most formats; others do not.
TAKES_SINGLE_ROWS = CPUINFO.exists() and "avx512bw" in CPUINFO.read_text(encoding="ascii", errors="replace")
