"""The tiny GGUF files in llama.cpp itself: what we write for tests is what it reads, and it says the same of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from golden import read_golden
from tiny_gguf import write_gguf
from tiny_models import IDS, NUM_KEPT, TINY

pytestmark = pytest.mark.oracle

FLOAT32 = 0  # the number of ggml's type
TOLERANCE = 2e-3  # of the largest logit: it looks activations up in tables of float16

OTHERWISE = {
    "llama-yarn-betas": "it reads the bounds and the factor of YaRN for other architectures only",
    "phi3-4k": "it has switched windows of Phi-3 off",
    "gpt-oss": "it rounds the bounds of YaRN's ramp, which the model does not",
}
IN_GGUF = [name for name, tiny in TINY.items() if not tiny.not_in_gguf]
NAMES = [
    pytest.param(name, marks=pytest.mark.xfail(reason=OTHERWISE[name], strict=True)) if name in OTHERWISE else name
    for name in IN_GGUF
]


@pytest.mark.parametrize("name", NAMES)
def test_llama_cpp_says_the_same(name: str, tmp_path: Path) -> None:
    llama_cpp = pytest.importorskip("llama_cpp")
    golden = read_golden()[name]
    file = write_gguf(golden.model, tmp_path / "tiny.gguf")
    llama = llama_cpp.Llama(
        str(file), n_ctx=256, n_batch=64, logits_all=True, n_threads=1, type_k=FLOAT32, type_v=FLOAT32, verbose=False
    )
    llama.eval(IDS)
    got = np.array(llama.scores[: len(IDS)])[-NUM_KEPT:]
    llama.close()
    error = np.abs(got - golden.logits).max() / np.abs(golden.logits).max()
    print(f"{name}: llama.cpp {error:.1e}")
    assert error <= TOLERANCE
