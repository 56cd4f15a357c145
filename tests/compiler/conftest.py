"""An independent Llama in numpy, to hold graphs against."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import quants
from numpy.typing import NDArray

Array = NDArray[np.float32]

TEXT = """The harbour town of Elmsworth had three clocks, and no two of them agreed. The one on the church ran slow in
winter, because the keeper, Mrs. Abernathy, believed that cold made time heavier. The one on the customs house ran fast,
for merchants like to leave early; and the third, above the baker's door, had stopped in 1893 at twenty past four, which
made it right twice a day — more often, the baker said, than the other two together.

def nearest(clocks: list[float], now: float) -> int:
    # index of the clock that is least wrong
    return min(range(len(clocks)), key=lambda i: abs(clocks[i] - now))

When the railway came, the company asked for one time: "A train cannot leave at 9:05, 9:11 and 9:30 at once." So a
meeting was called. It lasted six hours by the customs house, five by the church, and no time at all by the baker's
clock. In the end they bought a fourth clock from Zürich (it cost £48), hung it in the station, and set the other three
by ear. Today visitors are told that Elmsworth has four clocks, and that all of them are wrong by the same two minutes.
"""


class Reference:
    """Llama in float32 over the dequantized tensors of a GGUF file: no cache, no batch, no kernel of ours."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        self.tensors = {t.name: quants.dequantize(t.data, t.tensor_type).reshape(t.shape[::-1]) for t in reader.tensors}
        values = {name: field.contents() for name, field in reader.fields.items() if name.startswith("llama.")}
        self.layers, self.heads = values["llama.block_count"], values["llama.attention.head_count"]
        self.kv_heads = values["llama.attention.head_count_kv"]
        self.base, self.epsilon = values["llama.rope.freq_base"], values["llama.attention.layer_norm_rms_epsilon"]

    def logits(self, ids: list[int]) -> Array:
        """(len(ids), vocab)"""
        x = self.tensors["token_embd.weight"][ids]
        for i in range(self.layers):
            x = x + self._attention(self._norm(x, f"blk.{i}.attn_norm"), f"blk.{i}.attn_")
            h = self._norm(x, f"blk.{i}.ffn_norm")
            gate, up = self._linear(h, f"blk.{i}.ffn_gate"), self._linear(h, f"blk.{i}.ffn_up")
            x = x + self._linear(gate / (1 + np.exp(-gate)) * up, f"blk.{i}.ffn_down")
        head = "output" if "output.weight" in self.tensors else "token_embd"
        return self._linear(self._norm(x, "output_norm"), head)

    def _linear(self, x: Array, name: str) -> Array:
        return x @ self.tensors[f"{name}.weight"].T

    def _norm(self, x: Array, name: str) -> Array:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.epsilon) * self.tensors[f"{name}.weight"]

    def _attention(self, x: Array, prefix: str) -> Array:
        q, k, v = (self._heads(self._linear(x, prefix + part)) for part in "qkv")  # (heads, T, size)
        q, k = self._rotate(q), self._rotate(k)
        group = self.heads // self.kv_heads
        scores = q @ np.repeat(k, group, axis=0).swapaxes(1, 2) / np.sqrt(q.shape[-1])
        scores += np.triu(np.full(scores.shape[1:], -np.inf), 1)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        out = weights / weights.sum(-1, keepdims=True) @ np.repeat(v, group, axis=0)
        return self._linear(out.swapaxes(0, 1).reshape(len(x), -1).astype(np.float32), prefix + "output")

    def _heads(self, x: Array) -> Array:
        size = self.tensors["blk.0.attn_q.weight"].shape[0] // self.heads
        return x.reshape(len(x), -1, size).swapaxes(0, 1)

    def _rotate(self, x: Array) -> Array:
        """GGUF keeps Llama's rows so that adjacent elements are a pair."""
        size = x.shape[-1]
        angles = np.arange(x.shape[1])[:, None] * self.base ** (-np.arange(0, size, 2) / size)
        even, odd, cos, sin = x[..., 0::2], x[..., 1::2], np.cos(angles), np.sin(angles)
        return np.stack([even * cos - odd * sin, even * sin + odd * cos], -1).reshape(x.shape).astype(np.float32)


@pytest.fixture(scope="session")
def reference_of() -> type[Reference]:
    return Reference


@pytest.fixture(scope="session")
def reference(smollm2_gguf: Path) -> Reference:
    return Reference(smollm2_gguf)


@pytest.fixture(scope="session")
def text() -> str:
    """A fixed text of more than 256 tokens: prose, code, accents."""
    return TEXT
