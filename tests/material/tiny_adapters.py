"""Random LoRA adapters as PEFT saves them: folders of an adapter_config.json and an adapter_model.safetensors."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

Tensors = dict[str, NDArray[np.float32]]

PREFIX = "base_model.model."
SPREAD = 0.2  # updates are about as large as the weights of tiny models


def write_adapter(
    folder: Path, shapes: Mapping[str, tuple[int, int]], rank: int = 4, alpha: float = 8, seed: int = 0, **config: Any
) -> Path:
    """Random A and B for each module of `shapes`: Hugging Face name to (N, K). `config`: keys of adapter_config.json.

    Ranks are those of `rank`, and of `rank_pattern` where its keys are whole names of modules.
    """
    ranks: Mapping[str, int] = config.get("rank_pattern", {})
    tensors: Tensors = {}
    for module, (num_rows, num_columns) in shapes.items():
        each = ranks.get(module, rank)
        tensors[f"{PREFIX}{module}.lora_A.weight"] = drawn(f"{module}.A", (each, num_columns), seed)
        tensors[f"{PREFIX}{module}.lora_B.weight"] = drawn(f"{module}.B", (num_rows, each), seed)
    return write_files(folder, tensors, {"r": rank, "lora_alpha": alpha, "target_modules": list(shapes)} | config)


def write_files(folder: Path, tensors: Mapping[str, NDArray[Any]], config: Mapping[str, Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(tensors), folder / "adapter_model.safetensors")
    usual = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "bias": "none", "base_model_name_or_path": "tiny"}
    (folder / "adapter_config.json").write_text(json.dumps(usual | dict(config)), encoding="utf-8")
    return folder


def drawn(name: str, shape: tuple[int, ...], seed: int) -> NDArray[np.float32]:
    values = np.random.default_rng([seed, zlib.crc32(name.encode())]).standard_normal(shape)
    return (SPREAD * values).astype(np.float32)


def linears(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, int]]:
    """The modules of a checkpoint that adapters may have: all matrices but the tables, without `.weight`."""
    tables = ("embed_tokens.weight", "lm_head.weight")
    return {
        name.removesuffix(".weight"): (shape[0], shape[1])
        for name, shape in shapes.items()
        if len(shape) == 2 and name.endswith(".weight") and not name.endswith(tables)
    }
