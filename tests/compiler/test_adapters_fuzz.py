"""Damaged adapters: each is read, with finite values, or refused with a CompileError."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_adapters import write_adapter

from mistralrs_onnx.compiler.adapters.ordering import parse_ordering
from mistralrs_onnx.compiler.adapters.peft import AdapterLimits, read_adapter
from mistralrs_onnx.compiler.archs import find_arch
from mistralrs_onnx.compiler.errors import CompileError

Q = "model.layers.0.self_attn.q_proj"
SHAPES = {"model.embed_tokens.weight": (20, 8), f"{Q}.weight": (8, 8)}
LIMITS = AdapterLimits(num_bytes=1 << 20)
CONFIG = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj"],
    "exclude_modules": ["k_proj"],
    "rank_pattern": {"q_proj": 4},
    "alpha_pattern": {"q_proj": 2},
    "layers_to_transform": [0],
    "layers_pattern": "layers",
    "target_parameters": None,
    "use_rslora": False,
    "init_lora_weights": True,
    "bias": "none",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "tiny",
}
ORDERING = {
    "order": ["a", "b"],
    "layers": {Q: 0},
    "base_model_id": "tiny",
    "preload_adapters": [{"name": "a", "adapter_model_id": "b"}],
}
# Surrogates cannot be written as UTF-8; deep values cannot be parsed.
VALUES = [
    *(None, True, False, 0, -1, 3, 4, 1 << 31, 10**300, 0.5, 1e308, float("nan"), float("inf")),
    *("", "q_proj", "(", "(a+)+", "\0", "\ud800", "all-linear", "../../x", "x" * 100_000),
    *([], {}, [[]], [None], [""], ["q_proj", 1], {"": None}, {"q_proj": None}, {"(": 4}, {"q_proj": {}}, [0.5], [-1]),
]


def read_or_refuse(folder: Path) -> None:
    try:
        adapter = read_adapter(folder, find_arch("llama"), SHAPES, LIMITS)
    except CompileError:
        return
    for a, b in adapter.updates.values():
        assert np.isfinite(a).all()
        assert np.isfinite(b).all()
        assert (len(b), a.shape[1]) == (8, 8)


@pytest.mark.parametrize("key", CONFIG)
def test_any_value_of_any_key(key: str, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path, {Q: (8, 8)}, **CONFIG)
    read_or_refuse(folder)
    for value in VALUES:
        (folder / "adapter_config.json").write_text(json.dumps(CONFIG | {key: value}))
        read_or_refuse(folder)


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_damaged_bytes(file: str, tmp_path: Path) -> None:
    folder = write_adapter(tmp_path, {Q: (8, 8)})
    content = (folder / file).read_bytes()
    rng = np.random.default_rng(0)
    for _ in range(400):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), rng.integers(1, 4)):
            damaged[place] = rng.integers(256)
        cut = len(content) if rng.random() < 0.7 else int(rng.integers(len(content)))
        (folder / file).write_bytes(damaged[:cut])
        read_or_refuse(folder)


@pytest.mark.parametrize("key", ORDERING)
@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:20])
def test_ordering_files(key: str, value: Any) -> None:
    with suppress(CompileError):
        parse_ordering(ORDERING | {key: value})
