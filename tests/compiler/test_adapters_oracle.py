"""Merged adapters against PEFT, and where PEFT cannot say, against matrices multiplied out in numpy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import read_golden
from peft_oracles import KINDS, NAMES, WEIGHTS, Kind, answer, attach, attach_several, check, load
from safetensors.numpy import load_file
from tiny_adapters import linears, write_adapter
from tiny_gguf import write_gguf
from tiny_models import IDS, Described, write_folder

from mistralrs_onnx.compiler.adapters.files import in_folder
from mistralrs_onnx.compiler.adapters.merge import ToMerge
from mistralrs_onnx.compiler.compile import CompileOptions, compile_folder, compile_gguf
from mistralrs_onnx.runtime.package import open_package
from mistralrs_onnx.runtime.sessions import make_session

pytestmark = pytest.mark.oracle


def portable_logits(package: Path) -> np.ndarray:
    """Of all positions, from one run of model.onnx."""
    session = make_session(package / "model.onnx", 1)
    kv = open_package(package).manifest.kv
    count = np.arange(len(IDS))[None]
    feeds = {"input_ids": np.array([IDS]), "attention_mask": np.ones_like(count), "position_ids": count}
    empty = np.zeros((1, kv.num_heads, 0, kv.head_size), np.float32)
    feeds |= {each.name: empty for each in session.get_inputs() if each.name.startswith("past_key_values")}
    return session.run(["logits"], feeds)[0][0]


def options_of(adapters: Iterable[ToMerge], **others: Any) -> CompileOptions:
    return CompileOptions(accuracy="float32", adapters=tuple(adapters), **others)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", NAMES)
def test_one_adapter(name: str, kind: str, tmp_path: Path) -> None:
    folder = write_folder(read_golden()[name].model, tmp_path / "model")
    base = answer(load(folder))
    model = attach(load(folder), KINDS[kind], "default", seed=1)
    model.save_pretrained(tmp_path / "adapter")
    package = compile_folder(folder, tmp_path / "package", options_of([ToMerge(in_folder(tmp_path / "adapter"))]))
    check(portable_logits(package), answer(model), base)


PARAMETERS = ("mlp.experts.gate_up_proj", "mlp.experts.down_proj", "mlp.gate.weight")
# PEFT puts what `target_parameters` names on the same module inside each other, in an order of its own.
CHOSEN = [PARAMETERS, PARAMETERS[:1], PARAMETERS[1:2]]


@pytest.mark.parametrize("chosen", CHOSEN, ids=lambda chosen: str(len(chosen)))
@pytest.mark.parametrize("name", ["mixtral", "qwen2-moe", "qwen3-moe", "gpt-oss"])
def test_experts_that_are_one_parameter(name: str, chosen: tuple[str, ...], tmp_path: Path) -> None:
    folder = write_folder(read_golden()[name].model, tmp_path / "model")
    router = "mlp.router.weight" if name == "gpt-oss" else "mlp.gate.weight"
    targets = [router if each == "mlp.gate.weight" else each for each in chosen]
    config = {"target_parameters": targets, "target_modules": ["q_proj"], "rank_pattern": {".*experts.down_proj": 2}}
    base = answer(load(folder))
    model = attach(load(folder), Kind(config=config), "default", seed=1)
    model.save_pretrained(tmp_path / "adapter")
    package = compile_folder(folder, tmp_path / "package", options_of([ToMerge(in_folder(tmp_path / "adapter"))]))
    check(portable_logits(package), answer(model), base)


@pytest.mark.parametrize("name", ["llama", "phi3-4k"])
def test_the_head_is_adapted_where_it_is_not_tied(name: str, tmp_path: Path) -> None:
    folder = write_folder(read_golden()[name].model, tmp_path / "model")
    kind = Kind(config={"target_modules": ["lm_head", "o_proj"]})
    base = answer(load(folder))
    model = attach(load(folder), kind, "default", seed=1)
    model.save_pretrained(tmp_path / "adapter")
    package = compile_folder(folder, tmp_path / "package", options_of([ToMerge(in_folder(tmp_path / "adapter"))]))
    check(portable_logits(package), answer(model), base)


@pytest.mark.parametrize("name", NAMES)
def test_several_adapters_with_weights(name: str, tmp_path: Path) -> None:
    folder = write_folder(read_golden()[name].model, tmp_path / "model")
    base = answer(load(folder))
    model = attach_several(load(folder), tmp_path)
    chosen = [ToMerge(in_folder(tmp_path / each), weight) for each, weight in WEIGHTS.items()]
    package = compile_folder(folder, tmp_path / "package", options_of(chosen))
    check(portable_logits(package), answer(model), base)


@pytest.mark.parametrize("name", NAMES)
def test_peft_reads_what_the_helper_of_other_tests_writes(name: str, tmp_path: Path) -> None:
    """For Mixtral this is the layout from before experts became one parameter, which PEFT converts."""
    from peft import PeftModel

    model = read_golden()[name].model
    folder = write_folder(model, tmp_path / "model")
    targets = sorted({each.rpartition(".")[2] for each in linears(model.shapes)})
    adapter = write_adapter(tmp_path / "adapter", linears(model.shapes), target_modules=targets)
    base = answer(load(folder))
    expected = answer(PeftModel.from_pretrained(load(folder), adapter).eval())
    check(expected, answer(load(multiplied_out(model, adapter, tmp_path / "dense"))), base)
    package = compile_folder(folder, tmp_path / "package", options_of([ToMerge(in_folder(adapter))]))
    check(portable_logits(package), expected, base)


def multiplied_out(model: Described, adapter: Path, folder: Path) -> Path:
    """The checkpoint with W + alpha / r · B · A in place of W."""
    from safetensors.numpy import save_file

    write_folder(model, folder)
    config = json.loads((adapter / "adapter_config.json").read_text())
    scale = config["lora_alpha"] / config["r"]
    tensors, weights = load_file(adapter / "adapter_model.safetensors"), model.weights()
    for key, a in tensors.items():
        if ".lora_A." in key:
            b = tensors[key.replace("lora_A", "lora_B")].astype(np.float64)
            name = key.removeprefix("base_model.model.").replace(".lora_A", "")
            weights[name] = (weights[name] + scale * b @ a).astype(np.float32)
    save_file(weights, folder / "model.safetensors")
    return folder


def experts_only(shapes: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    return {name: shape for name, shape in shapes.items() if "experts" in name}


def router_only(shapes: Mapping[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    return {name: shape for name, shape in shapes.items() if name.endswith(".gate")}


@pytest.mark.parametrize("part", [experts_only, router_only])
def test_parts_of_mixtures(part: Callable[[Mapping[str, Any]], dict[str, Any]], tmp_path: Path) -> None:
    model = read_golden()["mixtral"].model
    folder = write_folder(model, tmp_path / "model")
    adapter = write_adapter(tmp_path / "adapter", part(linears(model.shapes)))
    package = compile_folder(folder, tmp_path / "package", options_of([ToMerge(in_folder(adapter))]))
    dense = load(multiplied_out(model, adapter, tmp_path / "dense"))
    check(portable_logits(package), answer(dense), answer(load(folder)))


@pytest.mark.parametrize("name", ["llama", "mistral-v0.2", "mixtral", "gemma", "phi2", "phi3-4k", "qwen2"])
def test_the_same_adapter_in_gguf_gives_the_same_logits(name: str, tmp_path: Path) -> None:
    """GGUF files of llama keep rows of q and k in another order; adapters are in that of Hugging Face all the same."""
    model = read_golden()[name].model
    folder = write_folder(model, tmp_path / "model")
    file = write_gguf(model, tmp_path / "tiny.gguf")
    adapter = write_adapter(tmp_path / "adapter", linears(model.shapes))
    package = compile_gguf(file, tmp_path / "package", options_of([ToMerge(in_folder(adapter))]))
    dense = load(multiplied_out(model, adapter, tmp_path / "dense"))
    check(portable_logits(package), answer(dense), answer(load(folder)))
