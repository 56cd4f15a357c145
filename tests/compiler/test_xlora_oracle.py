"""What is said of PEFT's X-LoRA holds: its passes, its numbers of layers, and what it saves."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import read_golden
from tiny_models import IDS, PROMPT, TOLERANCE, write_folder
from tiny_xlora import TinyXLora, write_xlora
from xlora_oracles import answer, by_hand, load, modules_of, peft_model, save_as_peft, step_by_step
from xlora_reference import scalings

from mistralrs_onnx.compiler.adapters.modules import stored_modules
from mistralrs_onnx.compiler.adapters.xlora import read_xlora
from mistralrs_onnx.compiler.adapters.xlora_layers import ordered_modules
from mistralrs_onnx.compiler.archs.arch import Arch
from mistralrs_onnx.compiler.config import Config
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.hf_model import find_architecture

pytestmark = pytest.mark.oracle

RELU = {"enable_relu_and_dropout": True}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"layerwise_scalings": True},
    {"layerwise_scalings": True, "xlora_depth": 2, "scaling_pass_value": 0.4} | RELU,
    {"xlora_depth": 3, "softmax_temperature": 0.5, "global_scaling_weight": 0.6, "top_k_lora": 2} | RELU,
    {"enable_softmax": False, "enable_softmax_topk": True, "top_k_lora": 2, "layerwise_scalings": True},
]
NAMES = ["llama", "mistral-v0.1", "gemma", "mixtral", "phi2", "phi3-4k", "qwen2"]


def written(name: str, folder: Path, **config: Any) -> tuple[Path, TinyXLora]:
    model = read_golden()[name].model
    base = write_folder(model, folder / "model")
    return base, write_xlora(folder / "xlora", modules_of(base), model.config["hidden_size"], **config)


def arch_and_shapes(name: str) -> tuple[Arch, dict[str, tuple[int, ...]]]:
    model = read_golden()[name].model
    config = Config(model.config)
    arch = find_architecture(config, None)
    return arch, arch.decoder(config, lambda weight: weight in model.shapes).shapes()


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max())


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_peft_computes_the_older_formula(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    base, xlora = written(name, tmp_path, **options)
    expected = by_hand(base, xlora, IDS)
    assert close(answer(peft_model(base, xlora), IDS), expected)
    assert not close(answer(load(base), IDS), expected)


@pytest.mark.parametrize("options", OPTIONS[1:3], ids=str)
def test_a_decode_step_equals_a_position_of_one_forward(options: dict[str, Any], tmp_path: Path) -> None:
    base, xlora = written("llama", tmp_path, **options)
    model = peft_model(base, xlora)
    assert close(step_by_step(model, IDS, PROMPT), answer(model, IDS)[PROMPT - 1 :])


@pytest.mark.parametrize("name", NAMES)
def test_the_classifier_reads_hidden_states_after_the_final_norm(name: str, tmp_path: Path) -> None:
    import torch

    base, xlora = written(name, tmp_path, layerwise_scalings=True)
    plain, model = load(base), peft_model(base, xlora)
    seen = []
    plain.lm_head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        plain(torch.tensor([IDS]))
    answer(model, IDS)
    made = model.base_model.get_latest_scalings()[0].numpy()
    expected = scalings(seen[0][0].numpy(), xlora.linears, xlora.config, len(xlora.modules))
    assert np.abs(made - expected).max() < 1e-5  # a softmax of float32 sums


def test_other_names_than_numbers_fail_in_peft(tmp_path: Path) -> None:
    from peft import XLoraConfig, get_peft_model

    base, xlora = written("llama", tmp_path)
    adapters = {name: str(xlora.folder / name) for name in xlora.names}
    model = get_peft_model(load(base), XLoraConfig(task_type="CAUSAL_LM", hidden_size=64, adapters=adapters))
    with pytest.raises(KeyError, match="first"):
        answer(model, IDS)


@pytest.mark.parametrize("name", sorted(read_golden()))
def test_layers_have_the_order_of_transformers(name: str, tmp_path: Path) -> None:
    """All linear layers that are modules there; experts are parameters in newer versions."""
    base = write_folder(read_golden()[name].model, tmp_path / "model")
    arch, shapes = arch_and_shapes(name)
    linears = [each for names in stored_modules(arch.hf_naming, shapes).values() for each in names]
    found = list(ordered_modules(arch.hf_naming, shapes, linears))
    expected = list(modules_of(base))
    assert [each for each in found if each in set(expected)] == expected


@pytest.mark.parametrize("names", [("0", "1"), ("0", "1", "2", "3")])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_what_peft_saves_is_read(
    depth: int, names: tuple[str, ...], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = {"xlora_depth": depth, "layerwise_scalings": True, "global_scaling_weight": 0.5}
    base, xlora = written("phi3-4k", tmp_path, layout="peft", names=names, **options)
    saved = save_as_peft(peft_model(base, xlora), tmp_path / "saved")
    arch, shapes = arch_and_shapes("phi3-4k")
    with caplog.at_level(logging.WARNING):
        read = read_xlora(saved, arch, shapes, adapters={name: xlora.folder / name for name in names})
    assert "layer 0 of the X-LoRA classifier is read from" in caplog.text
    for i, (weight, bias) in enumerate(xlora.linears):
        np.testing.assert_array_equal(read.weights[f"xlora.classifier.{i}.weight"], weight)
        np.testing.assert_array_equal(read.weights[f"xlora.classifier.{i}.bias"], bias)
    assert read.config.global_scaling_weight == 0.5
    numbers = {module: number for number, module in enumerate(xlora.modules)}
    assert read.layers["model.layers.1.self_attn.k_proj"] == numbers["model.layers.1.self_attn.qkv_proj"]


def test_the_folders_that_peft_saves_beside_are_no_adapters(tmp_path: Path) -> None:
    base, xlora = written("llama", tmp_path, layout="peft", names=("0", "1"))
    saved = save_as_peft(peft_model(base, xlora), tmp_path / "saved")
    with pytest.raises(CompileError, match=r"saved.0.adapter_model\.safetensors is no adapter, but what PEFT saves"):
        read_xlora(saved, *arch_and_shapes("llama"))
