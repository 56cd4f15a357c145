"""Which architecture a checkpoint is, and what is said when its config or its tensors are not what they should be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import gguf
import numpy as np
import pytest
from golden import read_golden
from tiny_gguf import write_gguf
from tiny_models import TINY, Described, Weights, write_folder

from mistralrs_onnx.compiler.archs import ARCHS, find_arch, find_gguf, find_hf
from mistralrs_onnx.compiler.checkpoint import Checkpoint, Reading, open_folder, open_gguf
from mistralrs_onnx.compiler.compile import CompileOptions, plan
from mistralrs_onnx.compiler.config import Config
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.positions import read_rope
from mistralrs_onnx.graphs.decoder import Decoder
from mistralrs_onnx.graphs.rotary import Rope

OVER = 2**32 - 1


def spec_of(checkpoint: Checkpoint) -> Decoder:
    return plan(checkpoint, CompileOptions())[0]


def plan_folder(model: Described, folder: Path, changes: dict[str, Any], reading: Reading = Reading()) -> Decoder:
    with open_folder(write_folder(model, folder, changes), reading) as checkpoint:
        return spec_of(checkpoint)


def plan_gguf(path: Path, reading: Reading = Reading()) -> Decoder:
    with open_gguf(path, reading) as checkpoint:
        return spec_of(checkpoint)


def test_every_architecture_has_a_tiny_model() -> None:
    assert {find_hf(f"{tiny.kind}ForCausalLM").name for tiny in TINY.values()} == set(ARCHS)


def test_unknown_architectures_list_the_known_ones_and_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"unknown architecture 'qwen4', known: llama, .*; did you mean qwen\d"):
        find_arch("qwen4")
    with pytest.raises(CompileError, match=r"'mamba' in general.architecture, known: llama, .*gpt-oss"):
        find_gguf("mamba")
    with pytest.raises(CompileError, match=r"'Qwen2_ForCausalLM' in architectures of config.json, .*mean Qwen2For"):
        plan_folder(read_golden()["qwen2"].model, tmp_path, {"architectures": ["Qwen2_ForCausalLM"]})


@pytest.mark.parametrize("named", [None, [], "LlamaForCausalLM", [7]])
def test_configs_that_name_no_architecture(named: object, tmp_path: Path) -> None:
    model = read_golden()["llama"].model
    with pytest.raises(CompileError, match=r"architectures must name one, got .*: say which with --arch"):
        plan_folder(model, tmp_path, {"architectures": named})
    assert len(plan_folder(model, tmp_path, {"architectures": named}, Reading(arch="llama")).layers) == 3


def test_what_the_user_says_comes_before_what_the_checkpoint_says(tmp_path: Path) -> None:
    model = read_golden()["llama"].model
    with pytest.raises(CompileError, match=r"no tensor for model\.layers\.0\.self_attn\.q_norm\.weight"):
        plan_folder(model, tmp_path, {}, Reading(arch="qwen3"))
    file = write_gguf(model, tmp_path / "llama.gguf")
    with pytest.raises(CompileError, match=r"no tensor for model\.layers\.0\.self_attn\.q_norm\.weight"):
        plan_gguf(file, Reading(arch="qwen3"))
    with pytest.raises(CompileError, match=r"unknown architecture 'lama', known: .*did you mean llama"):
        plan_gguf(file, Reading(arch="lama"))


ROPE = {"rope_theta": 10000.0, "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LAYERS = "config key layer_types must be a list of 3 strings"


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llama", {"hidden_size": None}, "config key hidden_size must be a positive integer, got None"),
        ("llama", {"num_hidden_layers": "3"}, "config key num_hidden_layers must be a positive integer, got '3'"),
        ("llama", {"num_hidden_layers": OVER}, "config key num_hidden_layers is 4294967295, at most 1024 is supported"),
        ("llama", {"max_position_embeddings": OVER}, "max_position_embeddings is 4294967295, at most 2097152"),
        ("mixtral", {"num_local_experts": OVER}, "num_local_experts is 4294967295, at most 4096 is supported"),
        ("llama", {"num_key_value_heads": 3}, "4 heads cannot share 3 key and value heads"),
        ("llama", {"rms_norm_eps": -1}, "config key rms_norm_eps must be a positive number, got -1"),
        ("llama", {"hidden_act": "relu"}, "hidden_act 'relu' is not supported, known: silu, .*the nearest is"),
        ("llama", {"rope_parameters": "linear"}, "config key rope_parameters must be an object, got 'linear'"),
        ("gemma3", {"rope_parameters": []}, r"config key rope_parameters must be an object, got \[\]"),
        ("gemma3", {"rope_parameters": {"full_attention": 1e6}}, r"rope_parameters\.full_attention must be an object"),
        (
            "gemma3",
            {"rope_parameters": {"full_attention": {"rope_theta": 1e6}, "sliding_attention": True}},
            r"config key rope_parameters\.sliding_attention must be an object, got True",
        ),
        ("llama", {"rope_parameters": {"rope_type": "ntk"}}, "RoPE scaling 'ntk' is not supported: known are default"),
        (
            "llama",
            {"rope_parameters": ROPE},
            "key original_max_position_embeddings must be a positive number, got None",
        ),
        ("phi2", {"rope_parameters": {"partial_rotary_factor": 0.1}}, "heads of 16 cannot turn 1 elements"),
        ("phi2", {"rope_parameters": {"partial_rotary_factor": 1e308}}, "heads of 16 cannot turn 32 elements"),
        ("gemma2", {"layer_types": ["sliding_attention"] * 2}, f"{LAYERS}, got "),
        ("gemma2", {"layer_types": "full_attention"}, f"{LAYERS}, got 'full_attention'"),
        (
            "gpt-oss",
            {"layer_types": ["full_attention", "linear", "full_attention"]},
            r"or full_attention, got \['linear'",
        ),
        ("smollm3", {"no_rope_layers": [1, 0]}, r"no_rope_layers must be a list of 5 numbers, got \[1, 0\]"),
        ("qwen2-moe", {"decoder_sparse_step": 2}, "Qwen with dense layers among the sparse ones is not supported"),
        ("qwen3-moe", {"norm_topk_prob": "yes"}, "config key norm_topk_prob must be true or false, got 'yes'"),
        ("phi2", {"qk_layernorm": True}, "Phi with qk_layernorm is not supported"),
    ],
)
def test_damaged_configs(name: str, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=message):
        plan_folder(read_golden()[name].model, tmp_path, changes)


WRONG = ("x", -1, 0, 1.5, True, None, [], {}, [1], 10**30, OVER, 1e308, float("nan"), [None] * 3)


def damages(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Configs in which one value, at any depth, is of another kind or absurd."""
    for key, held in value.items():
        yield from (value | {key: wrong} for wrong in WRONG)
        yield {other: kept for other, kept in value.items() if other != key}
        if isinstance(held, dict):
            yield from (value | {key: inner} for inner in damages(held))


@pytest.mark.parametrize("name", ["gemma3", "gpt-oss", "phi3-128k-long", "qwen2-moe", "smollm3"])
def test_any_damaged_config_is_refused_in_words_or_computed(name: str, tmp_path: Path) -> None:
    model, refused = read_golden()[name].model, 0
    write_folder(model, tmp_path)
    for config in damages(model.config):
        (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
        try:
            with open_folder(tmp_path, Reading()) as checkpoint:
                spec_of(checkpoint)
        except CompileError:
            refused += 1
    assert refused > 100


Kind = gguf.GGUFValueType
WRONG_METADATA = (
    None,
    ("x", Kind.STRING),
    (-1, Kind.INT32),
    (0, Kind.UINT32),
    (OVER, Kind.UINT32),
    (0.0, Kind.FLOAT32),
    (float("nan"), Kind.FLOAT32),
    (True, Kind.BOOL),
    ([1, 2, 3], Kind.ARRAY),
)


class Damaging(gguf.GGUFWriter):
    """Writes another value, or none, under one key; `written` are the keys so far."""

    key = ""
    value: Any = None
    written: ClassVar[set[str]] = set()

    def add_key_value(self, key: str, val: Any, vtype: Any, sub_type: Any = None) -> None:
        self.written.add(key)
        if key != self.key:
            super().add_key_value(key, val, vtype, sub_type)
        elif self.value is not None:
            super().add_key_value(key, *self.value, Kind.INT32 if self.value[1] is Kind.ARRAY else None)


@pytest.mark.parametrize("name", ["llama-yarn-betas", "phi4-mini", "gpt-oss"])
def test_any_damaged_metadata_is_refused_in_words_or_computed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, refused = read_golden()[name].model, 0
    monkeypatch.setattr(gguf, "GGUFWriter", Damaging)
    monkeypatch.setattr(Damaging, "written", set())
    write_gguf(model, tmp_path / "whole.gguf")
    keys = [key for key in sorted(Damaging.written) if not key.startswith(("tokenizer.", "general."))]
    for key, value in product(keys, WRONG_METADATA):
        monkeypatch.setattr(Damaging, "key", key)
        monkeypatch.setattr(Damaging, "value", value)
        try:
            plan_gguf(write_gguf(model, tmp_path / "damaged.gguf"))
        except CompileError:
            refused += 1
    assert refused > 50


def without(weights: Weights, name: str) -> Weights:
    return {other: values for other, values in weights.items() if other != name}


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("model.layers.1.mlp.up_proj.weight", None, "has no tensor for model.layers.1.mlp.up_proj.weight"),
        ("model.layers.1.mlp.up_proj.weight", (64, 96), r"up_proj.weight has shape \(64, 96\), .* needs \(96, 64\)"),
        ("model.norm.weight", (63,), r"tensor model.norm.weight has shape \(63,\), .* needs \(64,\)"),
        (
            "model.layers.1.self_attn.q_norm.weight",
            (16,),
            r"1.self_attn.q_norm.weight is not part of this architecture",
        ),
        (
            "model.layers.3.mlp.up_proj.weight",
            (96, 64),
            r"layers.3.mlp.up_proj.weight is not part of this architecture",
        ),
        ("model.layers.1.self_attn.q_proj.bias", (63,), r"q_proj.bias has shape \(63,\), .* needs \(64,\)"),
        (
            "model.layers.1.mlp.experts.0.up_proj.bias",
            (96,),
            r"experts.0.up_proj.bias is not part of this architecture",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    name: str, shape: tuple[int, ...] | None, message: str, tmp_path: Path
) -> None:
    model = read_golden()["llama"].model
    others = {other: held for other, held in model.shapes.items() if other != name}
    with pytest.raises(CompileError, match=message):
        plan_folder(Described(model.config, others | ({} if shape is None else {name: shape})), tmp_path, {})


@pytest.mark.parametrize(
    ("name", "tensor", "values", "message"),
    [
        ("mixtral", "blk.1.ffn_up_exps.weight", None, "no tensor for model.layers.1.mlp.experts.0.up_proj.weight"),
        (
            "mixtral",
            "blk.1.ffn_up_exps.weight",
            (3, 96, 64),
            "no tensor for model.layers.1.mlp.experts.3.up_proj.weight",
        ),
        ("mixtral", "blk.1.ffn_up_exps.weight", (4, 64, 64), r"blk.1.ffn_up_exps.weight has shape \(64, 64\)"),
        ("phi3-4k", "blk.1.attn_qkv.weight", (127, 64), r"blk.1.attn_qkv.weight has shape \(127, 64\), .*\(128, 64\)"),
        ("phi3-4k", "blk.1.ffn_gate.weight", (96, 64), r"ffn_\w+.weight and blk.1.ffn_\w+.weight are both"),
        ("phi4-mini", "rope_factors_long.weight", (7,), "config key long_factor must have 8 numbers, got 7"),
        ("phi4-mini", "rope_factors_short.weight", None, "has no tensor rope_factors_short.weight"),
        ("llama-3.1", "rope_freqs.weight", (9,), "config key rope_factors must have 8 numbers, got 9"),
        ("qwen2-moe", "blk.1.ffn_gate_inp_shexp.weight", (65,), r"gate_inp_shexp.weight has shape \(1, 65\)"),
        ("gpt-oss", "blk.1.attn_sinks.weight", (5,), r"blk.1.attn_sinks.weight has shape \(5,\)"),
    ],
)
def test_tensors_of_gguf_files_that_do_not_fit_are_named(
    name: str, tensor: str, values: tuple[int, ...] | None, message: str, tmp_path: Path
) -> None:
    def change(weights: Weights) -> Weights:
        others = without(weights, tensor)
        return others if values is None else others | {tensor: np.ones(values, np.float32)}

    file = write_gguf(read_golden()[name].model, tmp_path / "tiny.gguf", change)
    with pytest.raises(CompileError, match=message):
        plan_gguf(file)


def test_what_gguf_files_leave_out_is_what_all_released_models_have(tmp_path: Path) -> None:
    """StarCoder2's window; that OLMo 3, which calls itself olmo2, has one."""
    model = read_golden()["starcoder2"].model
    longer = Described(model.config | {"max_position_embeddings": 16384}, model.shapes)
    spec = plan_gguf(write_gguf(longer, tmp_path / "starcoder2.gguf"))
    assert {layer.attention.window for layer in spec.layers} == {4096}

    olmo = read_golden()["olmo2"].model
    with pytest.raises(CompileError, match="this is OLMo 3, which is not supported"):
        plan_folder(olmo, tmp_path / "olmo3", {"sliding_window": 8})


@pytest.mark.parametrize(("head_size", "rotary_dim"), [(44, 30), (98, 2), (94, 62)])
def test_the_number_of_elements_that_turn_is_taken_as_it_is(head_size: int, rotary_dim: int) -> None:
    """Their quotient, times the size, falls short of them."""
    rope = read_rope(Config({"rotary_dim": rotary_dim}), head_size)
    assert isinstance(rope, Rope)
    assert len(rope.frequencies) == rotary_dim // 2
