"""X-LoRA of tiny models, compiled and run as the runtime does it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tiny_models import IDS, PROMPT

from mistralrs_onnx.compiler.adapters.xlora import ToMix
from mistralrs_onnx.compiler.compile import CompileOptions, compile_folder
from mistralrs_onnx.model import LoadOptions, make_xlora_runner
from mistralrs_onnx.runtime.core import Row
from mistralrs_onnx.runtime.engine import EngineOptions
from mistralrs_onnx.runtime.package import Package, open_package
from mistralrs_onnx.runtime.sessions import make_session
from mistralrs_onnx.runtime.xlora import XLoraRunner

Array = NDArray[np.float32]


def compile_xlora(base: Path, mix: ToMix, out: Path, **options: Any) -> Package:
    return open_package(compile_folder(base, out, CompileOptions(**{"accuracy": "float32", "xlora": mix, **options})))


def xlora_runner(package: Package, tgt_non_granular_index: int | None = None, *, max_seqs: int = 8) -> XLoraRunner:
    engine = EngineOptions(max_seqs=max_seqs, max_model_len=64, prefill_chunk=32)
    options = LoadOptions(engine=engine, tgt_non_granular_index=tgt_non_granular_index)
    runner = make_xlora_runner(package, options, make_session(package.engine("float32"), 2))
    assert runner is not None
    return runner


def answers(runner: XLoraRunner, slot: int = 0, ids: Sequence[int] = IDS, last_granular: int | None = None) -> Array:
    """Logits after the prompt, and of each decode step."""
    rows = [Row(slot, 0, ids[:PROMPT], 1), *(Row(slot, i, [ids[i]], 1) for i in range(PROMPT, len(ids)))]
    return np.stack([runner.run([row._replace(last_granular=last_granular)])[0].copy() for row in rows])


def worst(found: Array, expected: Array) -> float:
    """Relative to the largest logit."""
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def llama_modules(config: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """All linears of the layers of a tiny llama: name to (N, K), in the order of the model."""
    hidden, wide = config["hidden_size"], config["intermediate_size"]
    head = config.get("head_dim", hidden // config["num_attention_heads"])
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    each = {
        "self_attn.q_proj": (queries, hidden),
        "self_attn.k_proj": (keys, hidden),
        "self_attn.v_proj": (keys, hidden),
        "self_attn.o_proj": (hidden, queries),
        "mlp.gate_proj": (wide, hidden),
        "mlp.up_proj": (wide, hidden),
        "mlp.down_proj": (hidden, wide),
    }
    return {
        f"model.layers.{i}.{name}": shape for i in range(config["num_hidden_layers"]) for name, shape in each.items()
    }
