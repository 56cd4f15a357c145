"""Random X-LoRA repositories for tiny models: as the training code leaves them, or as PEFT does."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file
from tiny_adapters import drawn, write_adapter
from xlora_reference import Expert

Layout = Literal["xlora", "peft"]
Tensors = dict[str, NDArray[np.float32]]
Linears = list[tuple[NDArray[np.float32], NDArray[np.float32] | None]]  # weights and biases
PEFT_PREFIX = "base_model.internal_xlora_classifier.layers"
ALPHA = 8


@dataclass(frozen=True)
class TinyXLora:
    """What was written. `linears`: weights and biases of the classifier, in order; `config`: of it.

    `modules`: Hugging Face names of adapted layers, in the order of their numbers.
    """

    folder: Path
    config: dict[str, Any]
    linears: Linears
    modules: dict[str, tuple[int, int]]
    names: tuple[str, ...]
    ranks: tuple[int, ...]

    def expert(self, module: str, number: int) -> Expert:
        """Of an adapter, by its number, for one module; all as `write_adapter` draws them."""
        rows, columns = self.modules[module]
        rank = self.ranks[number]
        a, b = drawn(f"{module}.A", (rank, columns), number), drawn(f"{module}.B", (rows, rank), number)
        return Expert(a, b, ALPHA / rank)

    @property
    def ordering(self) -> Path:
        return self.folder / "ordering.json"


def write_xlora(
    folder: Path,
    modules: Mapping[str, tuple[int, int]],
    hidden_size: int,
    layout: Layout = "xlora",
    *,
    names: Sequence[str] = ("first", "second", "third"),
    base: str = "tiny",
    seed: int = 0,
    linears: Linears | None = None,
    **config: Any,
) -> TinyXLora:
    """`modules`: Hugging Face name to (N, K), in the order of the model. `config`: keys that are not the default.
    `linears`: of the classifier, else they are random.

    The training code's repository has xlora_config.json, xlora_classifier.safetensors, ordering.json and a folder for
    each adapter; PEFT's has adapter_config.json, adapter_model.safetensors and the folders. Ranks are 4, 5, 6, ...
    """
    usual = {"xlora_depth": 1, "xlora_size": 24, "layerwise_scalings": False, "scaling_pass_value": 0.0}
    if layout == "xlora":
        usual |= {"enable_relu_and_dropout": False, "use_bias": True}
    values: dict[str, Any] = usual | config | {"hidden_size": hidden_size}
    ranks = tuple(4 + i for i in range(len(names)))
    for i, (name, rank) in enumerate(zip(names, ranks, strict=True)):
        ends = sorted({module.rpartition(".")[2] for module in modules})
        write_adapter(folder / name, modules, rank=rank, alpha=ALPHA, seed=i, target_modules=ends)
    num_layers = len(modules) if values["layerwise_scalings"] else 1
    has_bias = layout == "peft" or values["use_bias"]
    if linears is None:
        linears = random_linears(values, num_layers * len(names), has_bias=has_bias, seed=seed)
    written = TinyXLora(folder, values, linears, dict(modules), tuple(names), ranks)
    if layout == "xlora":
        _write_json(folder / "xlora_config.json", values | {"base_model_id": base, "adapters": list(names)})
        layers = {module: i for i, module in enumerate(modules)}
        _write_json(written.ordering, {"order": list(names), "layers": layers, "base_model_id": base})
        save_file(stored_tensors(values, linears, layout), folder / "xlora_classifier.safetensors")
    else:
        peft = {"peft_type": "XLORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": base}
        _write_json(folder / "adapter_config.json", values | peft | {"adapters": {n: f"made/{n}" for n in names}})
        save_file(stored_tensors(values, linears, layout), folder / "adapter_model.safetensors")
        written.config["enable_relu_and_dropout"] = True  # always so in PEFT, and no key of its config
    return written


def random_linears(config: Mapping[str, Any], num_scalings: int, *, has_bias: bool, seed: int) -> Linears:
    """Logits come out around 1, for hidden states of order 1."""
    widths = [config["hidden_size"], *[config["xlora_size"]] * (config["xlora_depth"] - 1), num_scalings]
    rng = np.random.default_rng(seed)
    made = []
    for columns, rows in pairwise(widths):
        weight = (rng.standard_normal((rows, columns)) * np.sqrt(2 / columns)).astype(np.float32)
        bias = (0.3 * rng.standard_normal(rows)).astype(np.float32)
        made.append((weight, bias if has_bias else None))
    return made


def stored_tensors(
    config: Mapping[str, Any],
    linears: Linears,
    layout: Layout,
) -> Tensors:
    """Under the names of a list of modules, in which ReLU and dropout have numbers too."""
    tensors: Tensors = {}
    if layout == "peft":
        step = 3 if config.get("xlora_dropout_p", 0.2) > 0 else 2
    else:
        step = 3 if config["enable_relu_and_dropout"] else 1
    for i, (weight, bias) in enumerate(linears):
        is_last = i == len(linears) - 1
        front = f"{PEFT_PREFIX}.{step * i}" if layout == "peft" else "last" if is_last else f"inner.{step * i}"
        tensors[f"{front}.weight"] = weight
        if bias is not None:
            tensors[f"{front}.bias"] = bias
    return tensors


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(dict(values)), encoding="utf-8")
