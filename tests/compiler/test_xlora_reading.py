"""X-LoRA repositories in both layouts: what is read from them, and every refusal."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden import read_golden
from safetensors.numpy import load_file, save_file
from tiny_adapters import linears
from tiny_xlora import PEFT_PREFIX, Layout, TinyXLora, write_xlora

from mistralrs_onnx.compiler.adapters.ordering import read_ordering
from mistralrs_onnx.compiler.adapters.xlora import XLora, find_xlora, read_xlora, scaling_pass
from mistralrs_onnx.compiler.adapters.xlora_config import XLoraConfig, parse_xlora_config, read_xlora_config
from mistralrs_onnx.compiler.adapters.xlora_layers import number_layers, ordered_modules
from mistralrs_onnx.compiler.archs import find_arch
from mistralrs_onnx.compiler.errors import CompileError

LLAMA = find_arch("llama")
HIDDEN = 8
PROJECTIONS = {"self_attn.q_proj": (8, 8), "self_attn.v_proj": (4, 8), "mlp.down_proj": (8, 12)}
MODULES = {f"model.layers.{i}.{name}": shape for i in range(2) for name, shape in PROJECTIONS.items()}
SHAPES = {"model.embed_tokens.weight": (20, 8), "model.norm.weight": (8,), "lm_head.weight": (20, 8)}
SHAPES |= {f"{name}.weight": shape for name, shape in MODULES.items()}
LAST = "model.layers.1.mlp.down_proj"
LAYOUTS: list[Layout] = ["xlora", "peft"]
CLASSIFIERS = {"xlora": "xlora_classifier.safetensors", "peft": "adapter_model.safetensors"}
CONFIGS = {"xlora": "xlora_config.json", "peft": "adapter_config.json"}


def write(folder: Path, layout: Layout = "xlora", **config: Any) -> TinyXLora:
    return write_xlora(folder, MODULES, HIDDEN, layout, **config)


def read(written: TinyXLora, **options: Any) -> XLora:
    ordering = read_ordering(written.ordering) if written.ordering.exists() else None
    return read_xlora(written.folder, LLAMA, SHAPES, ordering, **options)


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def change_tensors(path: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    tensors = dict(load_file(path))
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("layerwise", [False, True])
def test_a_repository_of_the_training_code(layerwise: bool, depth: int, bias: bool, relu: bool, tmp_path: Path) -> None:
    options = {"layerwise_scalings": layerwise, "use_bias": bias, "enable_relu_and_dropout": relu}
    written = write(tmp_path, xlora_depth=depth, **options)
    found = read(written, base="tiny")
    check(found, written)
    assert found.classifier.relu == relu
    assert found.layers == {module: i if layerwise else 0 for i, module in enumerate(MODULES)}


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("depth", [1, 2, 4])
@pytest.mark.parametrize("layerwise", [False, True])
def test_a_folder_of_pefts(layerwise: bool, depth: int, dropout: float, tmp_path: Path) -> None:
    written = write(tmp_path, "peft", layerwise_scalings=layerwise, xlora_depth=depth, xlora_dropout_p=dropout)
    found = read(written)
    check(found, written)
    assert found.classifier.relu
    assert found.layers == {module: i if layerwise else 0 for i, module in enumerate(MODULES)}


def check(found: XLora, written: TinyXLora) -> None:
    stored = {f"xlora.classifier.{i}.weight": weight for i, (weight, _) in enumerate(written.linears)}
    stored |= {f"xlora.classifier.{i}.bias": bias for i, (_, bias) in enumerate(written.linears) if bias is not None}
    assert found.weights.keys() == found.classifier.shapes().keys() == stored.keys()
    for name, values in stored.items():
        np.testing.assert_array_equal(found.weights[name], values)
    assert [adapter.name for adapter in found.adapters] == list(written.names)
    assert (found.classifier.num_adapters, found.scaling_pass) == (3, (0.0, 0.0, 0.0))
    for i, adapter in enumerate(found.adapters):
        expert = written.expert(LAST, i)
        np.testing.assert_array_equal(adapter.updates[LAST].a, expert.a)
        np.testing.assert_array_equal(adapter.updates[LAST].b, expert.b * np.float32(expert.scale))


def test_options_become_those_of_the_classifier(tmp_path: Path) -> None:
    options = {"enable_softmax": False, "softmax_temperature": 0.5, "top_k_lora": 2, "enable_softmax_topk": True}
    found = read(write(tmp_path, xlora_depth=2, xlora_size=6, **options)).classifier
    assert (found.hidden_size, found.depth, found.size, found.num_layers) == (8, 2, 6, 1)
    assert (found.softmax, found.temperature, found.top_k, found.softmax_topk) == (False, 0.5, 2, True)


def test_the_order_of_the_file_counts_and_not_that_of_the_config(tmp_path: Path) -> None:
    written = write(tmp_path)
    change_json(written.ordering, order=["third", "first"])
    change_tensors(
        tmp_path / CLASSIFIERS["xlora"], lambda tensors: tensors.update({k: v[:2] for k, v in tensors.items()})
    )
    assert [adapter.name for adapter in read(written).adapters] == ["third", "first"]
    change_json(written.ordering, order=None)
    change_json(tmp_path / CONFIGS["xlora"], adapters={"second": "somewhere", "third": "else"})
    assert [adapter.name for adapter in read(written).adapters] == ["second", "third"]


def test_numbers_of_layers_are_those_of_the_file(tmp_path: Path) -> None:
    written = write(tmp_path, layerwise_scalings=True)
    numbers = {module: len(MODULES) - 1 - i for i, module in enumerate(MODULES)}
    change_json(written.ordering, layers=numbers)
    assert read(written).layers == numbers
    change_json(written.ordering, layers={})
    assert read(written).layers == {module: i for i, module in enumerate(MODULES)}


def test_global_scaling_weight_is_in_b(tmp_path: Path) -> None:
    usual, half = read(write(tmp_path / "a")), read(write(tmp_path / "b", global_scaling_weight=0.5))
    for one, other in zip(usual.adapters, half.adapters, strict=True):
        np.testing.assert_array_equal(one.updates[LAST].a, other.updates[LAST].a)
        np.testing.assert_array_equal(0.5 * one.updates[LAST].b, other.updates[LAST].b)
        assert one.generation != other.generation


@pytest.mark.parametrize("layout", LAYOUTS)
def test_half_precision_becomes_float32(layout: Layout, tmp_path: Path) -> None:
    written = write(tmp_path, layout)
    change_tensors(tmp_path / CLASSIFIERS[layout], lambda t: t.update({k: v.astype(np.float16) for k, v in t.items()}))
    [weight, bias] = read(written).weights.values()
    assert weight.dtype == bias.dtype == np.float32
    np.testing.assert_array_equal(weight, written.linears[0][0].astype(np.float16))


def test_files_may_lie_below_and_have_longer_names(tmp_path: Path) -> None:
    written = write(tmp_path)
    (tmp_path / "run" / "deep").mkdir(parents=True)
    for name in (CONFIGS["xlora"], CLASSIFIERS["xlora"]):
        (tmp_path / name).rename(tmp_path / "run" / "deep" / f"zephyr_{name}")
    (tmp_path / ".cache").mkdir()
    (tmp_path / ".cache" / CONFIGS["xlora"]).write_text("{}")
    check(read(written), written)


def test_of_paths_of_pefts_adapters_the_last_part_counts(tmp_path: Path) -> None:
    written = write(tmp_path, "peft")
    change_json(tmp_path / CONFIGS["peft"], adapters={"0": "/train/first", "1": "C:\\train\\second", "2": "third/"})
    for i, (adapter, name) in enumerate(zip(read(written).adapters, written.names, strict=True)):
        assert adapter.name == str(i)
        np.testing.assert_array_equal(adapter.updates[LAST].a, written.expert(LAST, i).a)
        assert (tmp_path / name).is_dir()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_adapters_may_be_elsewhere(layout: Layout, tmp_path: Path) -> None:
    written = write(tmp_path / "repository", layout)
    (tmp_path / "repository" / "second").rename(tmp_path / "moved")
    with pytest.raises(CompileError, match="has no adapter second"):
        read(written)
    check(read(written, adapters={"second": tmp_path / "moved"}), written)


def as_peft_saves(tensors: dict[str, np.ndarray], folder: Path, number: int) -> None:
    """Moves a layer to where PEFT 0.21 does, beside weights that are none of the classifier."""
    moved = {"base_model.lora_model.model.lm_head.weight": np.zeros((2, 2), np.float32)}
    for kind in ("weight", "bias"):
        moved[f"{PEFT_PREFIX}.{kind}"] = tensors.pop(f"{PEFT_PREFIX}.{number}.{kind}")
    (folder / str(number)).mkdir()
    save_file(moved, folder / str(number) / "adapter_model.safetensors")


@pytest.mark.parametrize(("names", "numbers"), [("012", [0]), ("0123", [0, 3])])
def test_layers_that_peft_saved_with_adapters(
    names: str, numbers: list[int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    letters = {"0": "a", "1": "b", "2": "c", "3": "d"}
    written = write(tmp_path, "peft", xlora_depth=3, names=[letters[name] for name in names])
    change_json(tmp_path / CONFIGS["peft"], adapters={name: f"made/{letters[name]}" for name in names})
    for number in numbers:
        change_tensors(
            tmp_path / CLASSIFIERS["peft"], lambda tensors, number=number: as_peft_saves(tensors, tmp_path, number)
        )
    with caplog.at_level(logging.WARNING):
        found = read(written)
    assert len(caplog.records) == len(numbers)
    for i, (weight, _) in enumerate(written.linears):
        np.testing.assert_array_equal(found.weights[f"xlora.classifier.{i}.weight"], weight)


@pytest.mark.parametrize(
    ("layout", "values", "expected"),
    [
        ("xlora", {"scaling_pass_value": 0.5, "top_k_lora": 2, "enable_softmax_topk": True}, (0.5, 0.5, 0.5)),
        ("peft", {"scaling_pass_value": 0.5}, (0.5, 0.5, 0.5)),
        ("peft", {"scaling_pass_value": 0.5, "top_k_lora": 2}, (0.5, 0.5, 0)),
        ("peft", {"scaling_pass_value": 0.7, "top_k_lora": 2, "enable_softmax_topk": True}, (0.5, 0.5, 0)),
        ("peft", {"scaling_pass_value": 0.7, "enable_softmax_topk": True}, (1 / 3, 1 / 3, 1 / 3)),
        ("peft", {"top_k_lora": 2, "enable_softmax_topk": True}, (0, 0, 0)),
    ],
)
def test_scalings_of_the_scaling_pass(layout: Layout, values: dict[str, Any], expected: tuple[float, ...]) -> None:
    assert scaling_pass(XLoraConfig(8, layout, **values), 3) == expected


def test_fused_modules_have_one_number() -> None:
    arch = find_arch("phi3")
    parts = {"self_attn": ("q_proj", "k_proj", "v_proj", "o_proj"), "mlp": ("gate_proj", "up_proj", "down_proj")}
    names = [f"model.layers.{i}.{block}.{part}" for i in (10, 9) for block, these in parts.items() for part in these]
    shapes = dict.fromkeys((f"{name}.weight" for name in names), (8, 8))
    assert [name.removeprefix("model.layers.") for name in ordered_modules(arch.hf_naming, shapes, names)] == [
        *("9.self_attn.o_proj", "9.self_attn.qkv_proj", "9.mlp.gate_up_proj", "9.mlp.down_proj"),
        *("10.self_attn.o_proj", "10.self_attn.qkv_proj", "10.mlp.gate_up_proj", "10.mlp.down_proj"),
    ]
    numbers = number_layers(None, arch, shapes, names)
    assert numbers.num_layers == 8
    assert {name: numbers.by_linear[f"model.layers.10.{name}"] for name in ("self_attn.k_proj", "mlp.up_proj")} == {
        "self_attn.k_proj": 5,
        "mlp.up_proj": 6,
    }


def test_the_head_comes_after_all_layers() -> None:
    names = ["lm_head", "model.layers.0.mlp.up_proj"]
    shapes = dict.fromkeys((f"{name}.weight" for name in names), (8, 8))
    assert list(ordered_modules(LLAMA.hf_naming, shapes, names)) == names[::-1]


def test_defaults_of_the_config() -> None:
    config = parse_xlora_config({"hidden_size": 8, "adapters": ["a"], "base_model_id": "b"})
    assert config == XLoraConfig(8, base_model_id="b", adapters={"a": ""})
    assert (config.xlora_size, config.use_bias, config.enable_softmax, config.xlora_depth) == (2048, True, True, 1)
    peft = parse_xlora_config({"hidden_size": 8, "peft_type": "XLORA", "adapters": {"a": "p"}, "use_bias": False})
    assert peft == XLoraConfig(8, "peft", adapters={"a": "p"}, enable_relu_and_dropout=True)


def test_what_is_unknown_is_said(caplog: pytest.LogCaptureFixture) -> None:
    known = {"hidden_size": 8, "xlora_dropout_p": 0.2, "device": "cuda", "use_trainable_adapters": True}
    with caplog.at_level(logging.WARNING):
        parse_xlora_config(known | {"use_mean_pool": False, "stop_token_id": 2})
        assert not caplog.records
        parse_xlora_config(known | {"gate": 1})
    assert "not known, and not used: gate" in caplog.text


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"hidden_size": None}, "hidden_size must be an integer from 1 to 1048576, got None"),
        ({"hidden_size": True}, "hidden_size must be an integer"),
        ({"xlora_depth": 0}, "xlora_depth must be an integer from 1 to 64, got 0"),
        ({"xlora_depth": 65}, "xlora_depth must be an integer from 1 to 64, got 65"),
        ({"xlora_size": 2.5}, r"xlora_size must be an integer from 1 to \d+, got 2.5"),
        ({"top_k_lora": 0}, "top_k_lora must be an integer from 1"),
        ({"layerwise_scalings": 1}, "layerwise_scalings must be true or false, got 1"),
        ({"enable_softmax": None}, "enable_softmax must be true or false, got None"),
        ({"enable_softmax_topk": "yes"}, "enable_softmax_topk must be true or false"),
        ({"enable_relu_and_dropout": 0}, "enable_relu_and_dropout must be true or false"),
        ({"use_bias": []}, "use_bias must be true or false"),
        ({"softmax_temperature": 0}, "softmax_temperature must be a number from 1e-06 to 1e.06, got 0"),
        ({"softmax_temperature": float("nan")}, "softmax_temperature must be a number .*, got nan"),
        ({"scaling_pass_value": float("inf")}, "scaling_pass_value must be a number within .1e.06, got inf"),
        ({"global_scaling_weight": "1"}, "global_scaling_weight must be a number within .1e.06, got '1'"),
        ({"base_model_id": 3}, "base_model_id must be a string, got 3"),
        ({"adapters": "a"}, "adapters must be a list of names or an object of names and paths, got 'a'"),
        ({"adapters": [1]}, "adapters must be a list of names"),
        ({"adapters": ["a", "a"]}, "adapters must name each adapter once, got a twice"),
        ({"adapters": [str(i) for i in range(257)]}, "adapters must be at most 256, got 257"),
        ({"adapters": {"../a": "p"}}, "an adapter's name must be"),
        ({"use_mean_pool": True}, "use_mean_pool is not supported"),
        ({"peft_type": "LORA"}, "peft_type must be XLORA, got 'LORA'"),
    ],
)
def test_configs_that_are_refused(values: dict[str, Any], text: str, tmp_path: Path) -> None:
    path = tmp_path / "xlora_config.json"
    path.write_text(json.dumps({"hidden_size": 8, "adapters": ["a"]} | values))
    with pytest.raises(CompileError, match=rf"^{re.escape(str(path))}: {text}"):
        read_xlora_config(path)


Change = Callable[[dict[str, np.ndarray]], object]


def with_nan(tensors: dict[str, np.ndarray]) -> None:
    name = min(name for name in tensors if name.endswith("weight"))
    tensors[name] = np.where(np.arange(tensors[name].shape[1]) == 3, np.nan, tensors[name]).astype(np.float32)


def put(name: str, *shape: int, dtype: Any = np.float32) -> Change:
    return lambda tensors: tensors.update({name: np.zeros(shape, dtype)})


def drop(*names: str) -> Change:
    return lambda tensors: [tensors.pop(name) for name in names]


FIRST, SECOND = f"{PEFT_PREFIX}.0", f"{PEFT_PREFIX}.3"
SAME = FIRST.removeprefix("base_model.")
TENSORS: list[tuple[Layout, Change, str]] = [
    ("xlora", put("last.weight", 3, 4), r"tensor last\.weight has shape \(3, 4\), needed is \(3, 24\): .* 1 sets"),
    ("xlora", put("last.weight", 4, 24), r"tensor last\.weight has shape \(4, 24\), needed is \(3, 24\)"),
    ("xlora", put("inner.0.bias", 1, 24), r"tensor inner\.0\.bias has shape \(1, 24\), needed is \(24,\)"),
    ("xlora", drop("last.weight", "last.bias"), r"xlora_depth 2 has as many linear layers, got 1 \(inner\.0\."),
    ("xlora", put("inner.3.weight", 24, 24), r"xlora_depth 2 has as many linear layers, got 3"),
    ("xlora", drop("last.bias"), r"bias of linear layer 1 of the X-LoRA classifier is missing beside last\.weight"),
    ("xlora", drop("inner.0.weight"), r"weight of linear layer 0 .* is missing beside inner\.0\.bias"),
    ("xlora", put("score.weight", 2), r"tensor score\.weight is not of an X-LoRA classifier"),
    ("xlora", put("last.bias", 3, dtype=np.int64), r"tensor last\.bias has type I64, supported here: F32, F16, BF16"),
    ("xlora", with_nan, r"tensor inner\.0\.weight holds nan: the classifier is damaged"),
    ("peft", drop(f"{FIRST}.weight", f"{FIRST}.bias"), r"as many linear layers, got 1 \(base_model.*layers\.3\."),
    ("peft", lambda tensors: tensors.clear(), r"as many linear layers, got 0 \(none\)"),
    ("peft", drop(f"{SECOND}.bias"), r"bias of linear layer 1 .* is missing beside base_model"),
    ("peft", put("inner.0.weight", 24, 8), r"tensor inner\.0\.weight is not of an X-LoRA classifier"),
    ("peft", put(f"{SAME}.bias", 24), r"tensors .* and .* are the same"),
    ("peft", with_nan, r"layers\.0\.weight holds nan"),
]


@pytest.mark.parametrize(("layout", "change", "text"), TENSORS, ids=[text for *_, text in TENSORS])
def test_classifiers_that_are_refused(layout: Layout, change: Change, text: str, tmp_path: Path) -> None:
    written = write(tmp_path, layout, xlora_depth=2)
    path = tmp_path / CLASSIFIERS[layout]
    change_tensors(path, change)
    with pytest.raises(CompileError, match=rf"^{re.escape(str(path))}: .*{text}"):
        read(written)


def test_biases_against_the_config_are_refused(tmp_path: Path) -> None:
    written = write(tmp_path)
    change_json(tmp_path / CONFIGS["xlora"], use_bias=False)
    with pytest.raises(CompileError, match=r"tensor last\.bias is a bias, and use_bias of the config is false"):
        read(written)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"hidden_size": 16}, "hidden_size is 16, the base's is 8: the classifier is of another"),
        ({"top_k_lora": 4}, "top_k_lora must be at most the number of adapters, 3, got 4"),
        ({"layerwise_scalings": True}, r"has shape \(3, 8\), needed is \(18, 8\): .* 6 sets of scalings"),
    ],
)
def test_configs_that_do_not_fit(layout: Layout, changes: dict[str, Any], text: str, tmp_path: Path) -> None:
    written = write(tmp_path, layout)
    change_json(tmp_path / CONFIGS[layout], **changes)
    with pytest.raises(CompileError, match=text):
        read(written)


def test_one_adapter_too_many_is_refused(tmp_path: Path) -> None:
    written = write(tmp_path)
    shutil.copytree(tmp_path / "third", tmp_path / "fourth")
    change_json(written.ordering, order=["first", "second", "third", "fourth"])
    with pytest.raises(CompileError, match=r"has shape \(3, 8\), needed is \(4, 8\): .* 4 adapters"):
        read(written)


@pytest.mark.parametrize(
    ("changes", "base", "text"),
    [
        ({"base_model_id": "other"}, None, "the ordering file is for the base other, the X-LoRA config is tiny"),
        ({}, "other", "the ordering file is for the base tiny, the base model is other"),
        ({"layers": {"model.layers.0.self_attn.q_proj": 0}}, None, "has no number for model.layers"),
        ({"layers": {"model.layers.7.self_attn.q_proj": 0}}, None, "the base has no module model.layers.7"),
        ({"order": ["first", "fifth"]}, None, "has no adapter fifth"),
        ({"order": []}, None, "which adapters there are is said neither by adapters nor by an ordering file"),
    ],
)
def test_ordering_files_that_do_not_fit(changes: dict[str, Any], base: str | None, text: str, tmp_path: Path) -> None:
    written = write(tmp_path)
    change_json(written.ordering, **changes)
    with pytest.raises(CompileError, match=text):
        read(written, base=base)


def test_numbers_must_have_scalings(tmp_path: Path) -> None:
    """A file may number layers that no adapter adapts, but scalings are only those of adapted ones."""
    written = write(tmp_path, layerwise_scalings=True)
    numbers = {module: i + 1 for i, module in enumerate(MODULES)} | {"lm_head": 0}
    change_json(written.ordering, layers=numbers)
    with pytest.raises(
        CompileError, match=rf"has number 6 for {LAST}: 6 layers are adapted, so that numbers are 0 to 5"
    ):
        read(written)


def test_adapters_must_adapt_the_same_layers(tmp_path: Path) -> None:
    written = write(tmp_path)
    folder = tmp_path / "second"
    change_json(folder / "adapter_config.json", target_modules=["q_proj", "v_proj"])
    change_tensors(folder / "adapter_model.safetensors", lambda t: [t.pop(name) for name in list(t) if "down" in name])
    text = "down_proj is adapted by only one of first and second"
    with pytest.raises(CompileError, match=text):
        read(written)


def test_a_weight_that_overflows_is_refused(tmp_path: Path) -> None:
    written = write(tmp_path, global_scaling_weight=1e6)
    change_tensors(
        tmp_path / "second" / "adapter_model.safetensors",
        lambda tensors: tensors.update({k: v * np.float32(1e34) for k, v in tensors.items() if "lora_B" in k}),
    )
    with pytest.raises(CompileError, match=r"global_scaling_weight 1e\+06 is too large for .* of adapter second"):
        read(written)


def test_damaged_adapters_are_refused_by_their_tensor(tmp_path: Path) -> None:
    written = write(tmp_path)
    change_tensors(tmp_path / "third" / "adapter_model.safetensors", with_nan)
    with pytest.raises(CompileError, match=r"third.*tensor base_model.*lora_A.weight holds nan"):
        read(written)


def test_folders_without_all_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="nowhere: no such folder"):
        find_xlora(tmp_path / "nowhere")
    with pytest.raises(CompileError, match=r"is no X-LoRA: needed are xlora_config\.json and xlora_classifier"):
        find_xlora(tmp_path)
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "xlora_config.json").write_text("{}")
    with pytest.raises(CompileError, match=r"no xlora_classifier\.safetensors: its classifier is missing"):
        find_xlora(tmp_path)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "xlora_config.json").write_text("{}")
    with pytest.raises(CompileError, match=r"several files xlora_config\.json: a/xlora_config\.json, b/xlora_config"):
        find_xlora(tmp_path)


def test_a_folder_of_a_lora_adapter_is_refused(tmp_path: Path) -> None:
    written = write(tmp_path)
    with pytest.raises(
        CompileError, match="peft_type must be XLORA, got 'LORA': this is the config of another adapter"
    ):
        read_xlora(written.folder / "first", LLAMA, SHAPES)


@pytest.mark.parametrize("name", [CONFIGS["xlora"], CLASSIFIERS["xlora"], "second/adapter_model.safetensors"])
def test_links_out_of_the_root_are_refused(name: str, tmp_path: Path) -> None:
    written = write(tmp_path / "root" / "repository")
    check(read(written, root=tmp_path / "root"), written)
    path = written.folder / name
    path.rename(tmp_path / "outside")
    path.symlink_to(tmp_path / "outside")
    with pytest.raises(CompileError, match="leads out of"):
        read(written, root=tmp_path / "root")


@pytest.mark.parametrize("name", ["llama", "mistral-v0.1", "gemma", "mixtral", "phi2", "phi3-4k", "qwen2"])
def test_every_architecture_numbers_all_its_layers(name: str) -> None:
    from mistralrs_onnx.compiler.config import Config
    from mistralrs_onnx.compiler.hf_model import find_architecture

    model = read_golden()[name].model
    arch = find_architecture(Config(model.config), None)
    shapes = arch.decoder(Config(model.config), lambda weight: weight in model.shapes).shapes()
    adapted = [name.removesuffix(".weight") for name, shape in shapes.items() if len(shape) == 2]
    adapted = [name for name in adapted if name.startswith("model.layers.")]
    numbers = number_layers(None, arch, shapes, adapted)
    assert numbers.num_layers == len(linears(model.shapes))
    assert sorted(set(numbers.by_linear.values())) == list(range(numbers.num_layers))
    assert numbers.by_linear.keys() == set(adapted)
