"""Memory of a compile, in a process of its own: bounded, and no larger for a larger checkpoint."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import gguf
import numpy as np
import pytest

MIB = 1 << 20
CODE = """
import sys
from pathlib import Path
from mistralrs_onnx.compiler.compile import CompileOptions, compile_gguf
from mistralrs_onnx.compiler.isq import Isq
isq = Isq(sys.argv[3], requantize=True) if len(sys.argv) > 3 else Isq()
compile_gguf(Path(sys.argv[1]), Path(sys.argv[2]), CompileOptions(isq=isq))
status = Path("/proc/self/status").read_text().splitlines()  # the peak of this program; rusage keeps the parent's
print(next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM")))
"""


def peak_memory(source: Path, out: Path, *isq: str) -> int:
    made = subprocess.run([sys.executable, "-c", CODE, source, out, *isq], capture_output=True, text=True, check=True)
    return int(made.stdout)


@pytest.mark.oracle
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", ["Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf", "gemma-3-270m.Q4_K_M.gguf"])
def test_peak_memory_of_a_larger_real_model(name: str, tmp_path: Path) -> None:
    folder = os.environ.get("MISTRALRS_TEST_MODELS") or Path.home() / ".cache" / "mistralrs-onnx-test-models"
    source = Path(folder, name)
    if not source.is_file():
        pytest.skip(f"needs {source}")
    peak = peak_memory(source, tmp_path / "out")
    print(f"{name}: peak {peak / MIB:.0f} MiB for {source.stat().st_size / MIB:.0f} MiB")
    assert peak < 1024 * MIB


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_peak_memory_is_bounded_and_does_not_grow(smollm2_gguf: Path, tiny_llama, tmp_path: Path) -> None:
    """Four times the tensor bytes of the real model, in a wider shape with an embedding four times as large."""

    class Wide(tiny_llama):
        def _values(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
            return np.broadcast_to(np.float32(1), shape)

        def _add(self, writer: gguf.GGUFWriter, name: str, values: np.ndarray) -> None:
            if values.ndim == 1:
                writer.add_tensor(f"{name}.weight", np.ascontiguousarray(values))
                return
            blocks = np.full((len(values), values.shape[1] // 32 * 34), 7, np.uint8)
            writer.add_tensor(f"{name}.weight", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)

    wide = Wide(tmp_path / "wide.gguf")
    wide.hidden, wide.heads, wide.kv_heads, wide.wide, wide.layers, wide.tied = 2304, 36, 12, 6144, 5, True
    wide.tokens = [*wide.tokens, *(f"<{i}>" for i in range(49152))]
    wide.write()
    assert wide.path.stat().st_size > 3.9 * smollm2_gguf.stat().st_size
    small = peak_memory(smollm2_gguf, tmp_path / "small")
    large = peak_memory(wide.path, tmp_path / "large")
    print(f"peak {small / MIB:.0f} MiB for the real model, {large / MIB:.0f} MiB for four times as many bytes")
    assert small < 400 * MIB
    assert large < small + 40 * MIB  # 8 MiB of a chunk and its planes may be another 8 MiB


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("isq", ["int4-64", pytest.param("Q4_K", marks=pytest.mark.full)])
def test_quantizing_holds_pieces_and_not_a_matrix(isq: str, smollm2_gguf: Path, tmp_path: Path) -> None:
    plain = peak_memory(smollm2_gguf, tmp_path / "plain")
    quantized = peak_memory(smollm2_gguf, tmp_path / "quantized", isq)
    print(f"peak {plain / MIB:.0f} MiB, {quantized / MIB:.0f} MiB to {isq}")
    # A piece is 2 MiB and its search takes some copies of it, in each thread; the embedding alone is 108 MiB as floats.
    assert quantized < plain + 16 * (os.cpu_count() or 1) * MIB + 40 * MIB
