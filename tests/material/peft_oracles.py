"""What PEFT answers to tiny models with adapters that it made itself; only for tests with marker `oracle`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tiny_adapters import drawn
from tiny_models import IDS, TOLERANCE

NAMES = ["mistral-v0.1", "gemma", "llama", "llama-tied", "mixtral", "phi2", "phi3-4k", "qwen2"]
NOTICEABLE = 100 * TOLERANCE  # what adapters must change, so that a test without them would fail
WEIGHTS = {"one": 1.0, "two": 0.5, "three": -0.75}  # of several adapters at once


class Kind(NamedTuple):
    """What one adapter is: `config` goes to PEFT as it is."""

    rank: int = 4
    alpha: float = 8
    config: Mapping[str, Any] = {}


KINDS = {
    "plain": Kind(),
    "rank 1": Kind(1, 1.5),
    "rslora": Kind(config={"use_rslora": True}),
    "patterns": Kind(
        config={
            "rank_pattern": {r"layers\.[01]\..*[kv]_proj": 2, "o_proj": 8, "dense": 3, "fc1": 5, "qkv_proj": 6},
            "alpha_pattern": {r"^model\.layers\.2\.self_attn\.q_proj": 3, "down_proj|fc2": 2, "qkv_proj": 5},
        }
    ),
    "patterns and rslora": Kind(
        config={"rank_pattern": {"q_proj": 2, "fc1": 6, "qkv_proj": 6}, "alpha_pattern": {"_proj": 1}}
        | {"use_rslora": True}
    ),
    "some layers": Kind(config={"layers_to_transform": [0, 2]}),
    "all but some": Kind(config={"target_modules": "all-linear", "exclude_modules": ["k_proj", "fc2", "down_proj"]}),
    "regex": Kind(config={"target_modules": r".*\.layers\.(0|1)\..*(q_proj|qkv_proj|fc1|down_proj)"}),
}


def load(folder: Path) -> Any:
    import torch
    import transformers

    torch.set_num_threads(1)  # matrices are too small to share
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def answer(model: Any) -> np.ndarray:
    """Logits of all positions of IDS."""
    import torch

    with torch.no_grad():
        return model(torch.tensor([IDS])).logits[0].numpy().copy()


def attach(model: Any, kind: Kind, name: str, seed: int) -> Any:
    """Adapts all linear layers but the head, or those that `kind` says, and draws A and B."""
    import torch
    from peft import LoraConfig, get_peft_model

    modules = {name.rpartition(".")[2] for name, each in model.named_modules() if type(each) is torch.nn.Linear}
    usual = {"target_modules": sorted(modules - {"lm_head"}), "task_type": "CAUSAL_LM"}
    config = LoraConfig(r=kind.rank, lora_alpha=kind.alpha, **usual | dict(kind.config))
    return draw_weights(get_peft_model(model, config, adapter_name=name), name, seed)


def attach_several(model: Any, folder: Path) -> Any:
    """Adapters of three kinds, saved in folders of their names, and then active with WEIGHTS."""
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer

    kinds = dict(zip(WEIGHTS, ("plain", "rslora", "patterns"), strict=True))
    model = attach(model, KINDS[kinds["one"]], "one", seed=1)
    targets = model.peft_config["one"].target_modules
    for seed, other in ((2, "two"), (3, "three")):
        kind = KINDS[kinds[other]]
        usual = {"target_modules": targets, "task_type": "CAUSAL_LM"}
        model.add_adapter(other, LoraConfig(r=kind.rank, lora_alpha=kind.alpha, **usual | dict(kind.config)))
        draw_weights(model, other, seed)
    model.save_pretrained(folder)
    model.base_model.set_adapter(list(WEIGHTS))
    for module in model.modules():
        if isinstance(module, LoraLayer):
            for each, weight in WEIGHTS.items():
                module.scaling[each] *= weight
    return model


def draw_weights(model: Any, name: str, seed: int) -> Any:
    import torch

    with torch.no_grad():
        for key, value in model.named_parameters():
            if f".{name}." in key:
                value.copy_(torch.from_numpy(drawn(key, tuple(value.shape), seed)))
    return model.eval()


def check(got: np.ndarray, expected: np.ndarray, base: np.ndarray, tolerance: float = TOLERANCE) -> None:
    """`tolerance` of the largest logit: float32 sums in other orders."""
    largest = np.abs(expected).max()
    assert np.abs(expected - base).max() > NOTICEABLE * largest
    assert np.abs(got - expected).max() <= tolerance * largest
