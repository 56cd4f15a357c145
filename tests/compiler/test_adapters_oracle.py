"""Merged adapters against PEFT, and where PEFT cannot say, against matrices multiplied out in numpy."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from golden import read_golden
from safetensors.numpy import load_file
from tiny_adapters import drawn, linears, write_adapter
from tiny_gguf import write_gguf
from tiny_models import IDS, TOLERANCE, Described, write_folder

from mistralrs_onnx.compiler.adapters.files import in_folder
from mistralrs_onnx.compiler.adapters.merge import ToMerge
from mistralrs_onnx.compiler.compile import CompileOptions, compile_folder, compile_gguf
from mistralrs_onnx.runtime.package import open_package
from mistralrs_onnx.runtime.sessions import make_session

pytestmark = pytest.mark.oracle

NAMES = ["mistral-v0.1", "gemma", "llama", "llama-tied", "mixtral", "phi2", "phi3-4k", "qwen2"]
NOTICEABLE = 100 * TOLERANCE  # what adapters must change, so that a test without them would fail


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

    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()


def answer(model: Any) -> np.ndarray:
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


def draw_weights(model: Any, name: str, seed: int) -> Any:
    import torch

    with torch.no_grad():
        for key, value in model.named_parameters():
            if f".{name}." in key:
                value.copy_(torch.from_numpy(drawn(key, tuple(value.shape), seed)))
    return model.eval()


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


def check(got: np.ndarray, expected: np.ndarray, base: np.ndarray, tolerance: float = TOLERANCE) -> None:
    """`tolerance` of the largest logit: float32 sums in other orders."""
    largest = np.abs(expected).max()
    assert np.abs(expected - base).max() > NOTICEABLE * largest
    assert np.abs(got - expected).max() <= tolerance * largest


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


WEIGHTS = {"one": 1.0, "two": 0.5, "three": -0.75}


@pytest.mark.parametrize("name", NAMES)
def test_several_adapters_with_weights(name: str, tmp_path: Path) -> None:
    from peft import LoraConfig
    from peft.tuners.lora import LoraLayer

    folder = write_folder(read_golden()[name].model, tmp_path / "model")
    base = answer(load(folder))
    kinds = dict(zip(WEIGHTS, ("plain", "rslora", "patterns"), strict=True))
    model = attach(load(folder), KINDS[kinds["one"]], "one", seed=1)
    targets = model.peft_config["one"].target_modules
    for seed, other in ((2, "two"), (3, "three")):
        kind = KINDS[kinds[other]]
        usual = {"target_modules": targets, "task_type": "CAUSAL_LM"}
        model.add_adapter(other, LoraConfig(r=kind.rank, lora_alpha=kind.alpha, **usual | dict(kind.config)))
        draw_weights(model, other, seed)
    model.save_pretrained(tmp_path)
    model.base_model.set_adapter(list(WEIGHTS))
    for module in model.modules():
        if isinstance(module, LoraLayer):
            for each, weight in WEIGHTS.items():
                module.scaling[each] *= weight
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
