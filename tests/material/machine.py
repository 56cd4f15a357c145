"""What the CPU that runs the tests is like."""

from __future__ import annotations

from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")
FLAGS = CPUINFO.read_text(encoding="ascii", errors="replace") if CPUINFO.exists() else ""
# Kernels of quantized matmuls for AVX-512 compute a row alone as they do several, for most formats; others do not.
TAKES_SINGLE_ROWS = "avx512bw" in FLAGS
HAS_AMX = "amx_int8" in FLAGS
