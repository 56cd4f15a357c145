"""The serving graph of X-LoRA against PEFT's X-LoRA, and against the older formula by hooks on transformers' models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from golden import read_golden
from tiny_models import IDS, PROMPT, TOLERANCE, write_folder
from tiny_xlora import write_xlora
from xlora_serving import answers, compile_xlora, worst, xlora_runner

from mistralrs_onnx.compiler.adapters.xlora import ToMix

pytest.importorskip("peft")
import xlora_oracles

pytestmark = pytest.mark.oracle

DEEP = {"xlora_depth": 2, "enable_relu_and_dropout": True}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "layerwise": {"layerwise_scalings": True},
    "deep": {**DEEP, "layerwise_scalings": True},
    "deeper, no softmax, weighted": {**DEEP, "xlora_depth": 3, "enable_softmax": False, "global_scaling_weight": 1.5},
    "cool, best two": {"softmax_temperature": 0.5, "top_k_lora": 2},
    "scaled first pass": {"scaling_pass_value": 0.5, "layerwise_scalings": True},
}
NAMES = ["mistral-v0.1", "gemma", "llama", "mixtral", "phi2", "phi3-4k", "qwen2"]


def check_formula(name: str, config: dict[str, Any], folder: Path) -> None:
    base = write_folder(read_golden()[name].model, folder / "base")
    hidden_size = read_golden()[name].model.config["hidden_size"]
    xlora = write_xlora(folder / "xlora", xlora_oracles.modules_of(base), hidden_size, **config)
    package = compile_xlora(base, ToMix(xlora.folder, xlora.ordering), folder / "package")
    expected = xlora_oracles.by_hand(base, xlora, IDS)[PROMPT - 1 :]
    assert worst(xlora_oracles.answer(xlora_oracles.load(base), IDS)[PROMPT - 1 :], expected) > 100 * TOLERANCE
    assert worst(answers(xlora_runner(package)), expected) < TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_architectures(name: str, tmp_path: Path) -> None:
    check_formula(name, VARIANTS["deep"], tmp_path)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_older_formula(variant: str, tmp_path: Path) -> None:
    check_formula("llama", VARIANTS[variant], tmp_path)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "deeper, no softmax, weighted"])
@pytest.mark.parametrize("name", ["llama", "phi3-4k"])
def test_peft(name: str, variant: str, tmp_path: Path) -> None:
    """In PEFT's layout, its adapters where they were trained."""
    base = write_folder(read_golden()[name].model, tmp_path / "base")
    hidden_size = read_golden()[name].model.config["hidden_size"]
    config = {key: value for key, value in VARIANTS[variant].items() if key != "enable_relu_and_dropout"}
    xlora = write_xlora(tmp_path / "xlora", xlora_oracles.modules_of(base), hidden_size, "peft", **config)
    package = compile_xlora(base, ToMix(xlora.folder), tmp_path / "package")
    expected = xlora_oracles.step_by_step(xlora_oracles.peft_model(base, xlora), IDS, PROMPT)
    assert worst(answers(xlora_runner(package)), expected) < TOLERANCE


@pytest.mark.parametrize("index", [1, 3])
def test_scalings_of_later_tokens_are_those_of_one(index: int, tmp_path: Path) -> None:
    base = write_folder(read_golden()["llama"].model, tmp_path / "base")
    xlora = write_xlora(tmp_path / "xlora", xlora_oracles.modules_of(base), 64, layerwise_scalings=True)
    package = compile_xlora(base, ToMix(xlora.folder, xlora.ordering), tmp_path / "package")
    last = PROMPT + index - 1
    expected = xlora_oracles.by_hand(base, xlora, IDS, frozen=last)[PROMPT - 1 :]
    assert worst(xlora_oracles.by_hand(base, xlora, IDS)[PROMPT - 1 :], expected) > 10 * TOLERANCE
    assert worst(answers(xlora_runner(package, index), last_granular=last), expected) < TOLERANCE
