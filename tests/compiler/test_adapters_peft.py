"""PEFT folders in the common form: values by hand, names of every architecture, and every refusal."""

from __future__ import annotations

import json
import logging
import math
import re
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from golden import read_golden
from safetensors.numpy import load_file, save_file
from tiny_adapters import PREFIX, drawn, linears, write_adapter, write_files

from mistralrs_onnx.compiler.adapters.modules import find_modules, stored_modules
from mistralrs_onnx.compiler.adapters.peft import Adapter, AdapterLimits, generation_of, read_adapter
from mistralrs_onnx.compiler.archs import find_arch
from mistralrs_onnx.compiler.archs.arch import Arch
from mistralrs_onnx.compiler.config import Config
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.hf_model import find_architecture
from mistralrs_onnx.compiler.naming import Naming
from mistralrs_onnx.graphs.contract import Update

LLAMA = find_arch("llama")
ATTENTION = "model.layers.{}.self_attn.{}_proj"
Q, K = ATTENTION.format(0, "q"), ATTENTION.format(0, "k")
SHAPES = {  # of a base with two layers of hidden size 8
    "model.embed_tokens.weight": (20, 8),
    "model.norm.weight": (8,),
    "lm_head.weight": (20, 8),
    **{
        f"{ATTENTION.format(i, part)}.weight": (n, 8)
        for i in range(2)
        for part, n in zip("qkvo", (8, 4, 4, 8), strict=True)
    },
}
PROJECTIONS = {"model.layers.0.self_attn.q_proj": (8, 8), "model.layers.0.self_attn.k_proj": (4, 8)}


def read(folder: Path, **options: Any) -> Adapter:
    return read_adapter(folder, LLAMA, SHAPES, **options)


def pair(module: str, a: object, b: object, *, inside: str = "") -> dict[str, np.ndarray]:
    return {
        f"{PREFIX}{module}.lora_A{inside}.weight": np.array(a, np.float32),
        f"{PREFIX}{module}.lora_B{inside}.weight": np.array(b, np.float32),
    }


def test_the_common_form_by_hand(tmp_path: Path) -> None:
    a, b = np.arange(16).reshape(2, 8), np.arange(8).reshape(4, 2)
    config = {"r": 2, "lora_alpha": 3, "target_modules": [K], "base_model_name_or_path": "some/base"}
    adapter = read(write_files(tmp_path / "mine", pair(K, a, b), config))
    assert (adapter.name, adapter.base_model, adapter.rank) == ("mine", "some/base", 2)
    assert adapter.num_bytes == 4 * (16 + 8)
    assert list(adapter.updates) == [K]
    np.testing.assert_array_equal(adapter.updates[K].a, a)
    np.testing.assert_array_equal(adapter.updates[K].b, 1.5 * b)
    assert adapter.updates[K].a.dtype == adapter.updates[K].b.dtype == np.float32


def test_rslora_and_patterns_scale_b(tmp_path: Path) -> None:
    config = {"use_rslora": True, "rank_pattern": {Q: 3}, "alpha_pattern": {"k_proj": 5}}
    adapter = read(write_adapter(tmp_path, PROJECTIONS, 4, 8, **config))
    q, k = adapter.updates[Q], adapter.updates[K]
    assert (q.a.shape, q.b.shape, k.a.shape, k.b.shape) == ((3, 8), (8, 3), (4, 8), (4, 4))
    np.testing.assert_array_equal(q.b, drawn(f"{Q}.B", (8, 3), 0) * np.float32(8 / math.sqrt(3)))
    np.testing.assert_array_equal(k.b, drawn(f"{K}.B", (4, 4), 0) * np.float32(2.5))
    assert adapter.rank == 4


def with_name_inside(name: str) -> str:
    return name.replace(".weight", ".default.weight")


def without_prefix(name: str) -> str:
    return name.removeprefix(PREFIX)


@pytest.mark.parametrize("change", [with_name_inside, without_prefix])
def test_other_forms_of_names(change: Callable[[str], str], tmp_path: Path) -> None:
    usual = read(write_adapter(tmp_path / "usual", PROJECTIONS))
    config = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "k_proj"], "layers_to_transform": [0]}
    tensors = {change(name): values for name, values in adapter_tensors().items()}
    assert read(write_files(tmp_path / "other", tensors, config)).generation == usual.generation


def adapter_tensors(shapes: Mapping[str, tuple[int, int]] = PROJECTIONS) -> dict[str, np.ndarray]:
    tensors = {}
    for module, (n, k) in shapes.items():
        tensors |= pair(module, drawn(f"{module}.A", (4, k), 0), drawn(f"{module}.B", (n, 4), 0))
    return tensors


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_types_are_widened_exactly(dtype: Any, tmp_path: Path) -> None:
    tensors = {name: values.astype(dtype) for name, values in adapter_tensors().items()}
    config = {"r": 4, "lora_alpha": 4, "target_modules": ["q_proj", "k_proj"], "layers_to_transform": 0}
    update = read(write_files(tmp_path, tensors, config)).updates[Q]
    np.testing.assert_array_equal(update.a, tensors[f"{PREFIX}{Q}.lora_A.weight"].astype(np.float32))
    np.testing.assert_array_equal(update.b, tensors[f"{PREFIX}{Q}.lora_B.weight"].astype(np.float32))


def test_generations_follow_content_and_nothing_else(tmp_path: Path) -> None:
    first, again = (write_adapter(tmp_path / name, PROJECTIONS) for name in ("first", "again"))
    other = write_adapter(tmp_path / "other", PROJECTIONS, seed=1)
    scaled = write_adapter(tmp_path / "scaled", PROJECTIONS, alpha=9)
    generations = [read(folder).generation for folder in (first, again, other, scaled)]
    assert generations[0] == generations[1]
    assert len(set(generations)) == 3
    assert all(re.fullmatch("[0-9a-f]{64}", each) for each in generations)
    a, b = np.ones((1, 8), np.float32), np.ones((8, 1), np.float32)
    assert generation_of({"x": Update(a, b)}) != generation_of({"y": Update(a, b)})
    assert generation_of({"x": Update(a, b), "y": Update(a, b)}) == generation_of(
        {"y": Update(a, b), "x": Update(a, b)}
    )


def base_of(name: str) -> tuple[Arch, dict[str, tuple[int, ...]]]:
    model = read_golden()[name].model
    config = Config(model.config)
    arch = find_architecture(config, None)
    return arch, arch.decoder(config, lambda weight: weight in model.shapes).shapes()


@pytest.mark.parametrize(
    "name", ["mistral-v0.1", "gemma", "llama", "mixtral", "phi2", "phi3-4k", "qwen2", "qwen2-moe", "starcoder2"]
)
def test_all_modules_of_an_architecture_are_found(name: str, tmp_path: Path) -> None:
    arch, shapes = base_of(name)
    modules = linears(read_golden()[name].model.shapes)
    updates = read_adapter(write_adapter(tmp_path, modules), arch, shapes).updates
    tables = ("model.embed_tokens.weight", "lm_head.weight")
    expected = {weight for weight, shape in shapes.items() if len(shape) == 2 and weight not in tables}
    assert {f"{each}.weight" for each in updates} == expected
    for each, (a, b) in updates.items():
        assert (len(b), a.shape[1]) == shapes[f"{each}.weight"]


def test_the_same_names_are_found_backwards() -> None:
    for name in ("llama", "mixtral", "phi2", "phi3-4k", "starcoder2", "qwen2-moe"):
        arch, shapes = base_of(name)
        stored = stored_modules(arch.hf_naming, shapes)
        assert stored.keys() == linears(read_golden()[name].model.shapes).keys() | {"lm_head"}
        found = find_modules(stored, arch.hf_naming, shapes)
        assert {each: tuple(m.name for m in module.members) for each, module in found.items()} == stored


def test_fused_modules_share_a_and_part_b(tmp_path: Path) -> None:
    arch, shapes = base_of("phi3-4k")  # 4 heads of 16 and 2 key and value heads
    module = "model.layers.1.self_attn.qkv_proj"
    updates = read_adapter(write_adapter(tmp_path, {module: (128, 64)}, alpha=4), arch, shapes).updates
    a, b = drawn(f"{module}.A", (4, 64), 0), drawn(f"{module}.B", (128, 4), 0)
    for part, rows in {"q": slice(0, 64), "k": slice(64, 96), "v": slice(96, 128)}.items():
        update = updates[ATTENTION.format(1, part)]
        np.testing.assert_array_equal(update.a, a)
        np.testing.assert_array_equal(update.b, b[rows])
    assert len(updates) == 3


def test_interleaved_modules_take_rows_in_turn() -> None:
    naming = Naming(interleaved={"gate_up_proj": ("gate_proj", "up_proj")})
    shapes = {"mlp.gate_proj.weight": (3, 8), "mlp.up_proj.weight": (3, 8)}
    module = find_modules(["mlp.gate_up_proj"], naming, shapes)["mlp.gate_up_proj"]
    assert module.shape == (6, 8)
    rows = {member.name: list(range(6))[member.rows] for member in module.members}
    assert rows == {"mlp.gate_proj": [0, 2, 4], "mlp.up_proj": [1, 3, 5]}


def test_experts_need_not_be_there_where_all_linear_is_meant(tmp_path: Path) -> None:
    """transformers 5 keeps them as parameters, which PEFT does not count as linear layers."""
    arch, shapes = base_of("mixtral")
    modules = linears(read_golden()["mixtral"].model.shapes)
    attention = {name: shape for name, shape in modules.items() if "self_attn" in name}
    folder = write_adapter(tmp_path / "attention", attention, target_modules="all-linear")
    assert len(read_adapter(folder, arch, shapes).updates) == 12
    some = attention | {name: shape for name, shape in modules.items() if name.endswith("experts.0.w1")}
    folder = write_adapter(tmp_path / "some", some, target_modules="all-linear")
    with pytest.raises(CompileError, match=r"experts\.1\.w1\.lora_A\.weight is missing"):
        read_adapter(folder, arch, shapes)


EXPERTS = "model.layers.1.mlp.experts"


def expert_tensors(rank: int, count: int = 4) -> dict[str, np.ndarray]:
    """Of the two parameters of a layer of the tiny Mixtral: hidden size 64, 96 inside, four experts."""
    outer, inner = f"{PREFIX}{EXPERTS}.", f"{PREFIX}{EXPERTS}.base_layer."
    return {
        f"{inner}lora_A.weight": drawn("down A", (rank * count, 96), 0),
        f"{inner}lora_B.weight": drawn("down B", (64, rank * count), 0),
        f"{outer}lora_A.weight": drawn("up A", (2 * rank * count, 64), 0),
        f"{outer}lora_B.weight": drawn("up B", (192, 2 * rank * count), 0),
    }


PARAMETERS = {
    "r": 2,
    "lora_alpha": 3,
    "target_parameters": ["layers.1.mlp.experts.gate_up_proj", "layers.1.mlp.experts.down_proj"],
    "rank_pattern": {r".*\.gate_up_proj": 4},
}


def test_experts_that_are_one_parameter_are_taken_apart(tmp_path: Path) -> None:
    arch, shapes = base_of("mixtral")
    updates = read_adapter(write_files(tmp_path, expert_tensors(2), PARAMETERS), arch, shapes).updates
    assert len(updates) == 12
    for e in range(4):
        a, b = drawn("up A", (16, 64), 0)[4 * e : 4 * e + 4], drawn("up B", (192, 16), 0)[:, e::4] * np.float32(0.75)
        for part, rows in {"gate": slice(0, 96), "up": slice(96, 192)}.items():
            np.testing.assert_array_equal(updates[f"{EXPERTS}.{e}.{part}_proj"].a, a)
            np.testing.assert_array_equal(updates[f"{EXPERTS}.{e}.{part}_proj"].b, b[rows])
        down = updates[f"{EXPERTS}.{e}.down_proj"]
        np.testing.assert_array_equal(down.a, drawn("down A", (8, 96), 0)[2 * e : 2 * e + 2])
        np.testing.assert_array_equal(down.b, drawn("down B", (64, 8), 0)[:, e::4] * np.float32(1.5))


def test_parameters_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    arch, shapes = base_of("mixtral")

    def refused(tensors: dict[str, np.ndarray], text: str, **changes: Any) -> None:
        with pytest.raises(CompileError, match=text):
            read_adapter(write_files(tmp_path, tensors, PARAMETERS | changes), arch, shapes)

    tensors = expert_tensors(2)
    outer = {name: values for name, values in tensors.items() if "base_layer" not in name}
    refused(outer, r"mlp\.experts\.down_proj\.lora_A\.weight is missing")
    refused(tensors, "does not name as a target", target_parameters=["experts.gate_up_proj"])
    refused(expert_tensors(2, 3), r"has shape \(6, 96\), needed is \(8, 96\)|has shape \(12, 64\)")
    refused(tensors, r"needed is \(8, 64\) for rank 2", rank_pattern={})
    wrong = {name: values[:, :7] if "lora_A" in name else values for name, values in tensors.items()}
    refused(
        wrong, r"experts has \((64|192), 7\) outputs and inputs in the adapter, the base has \(192, 64\) for .*gate"
    )
    twice = {name.replace("base_layer", "base_layer.base_layer"): values for name, values in tensors.items()}
    refused(tensors | twice, "are both of .*down_proj: which is not clear")
    old = {
        f"{PREFIX}model.layers.1.block_sparse_moe.experts.0.w2.lora_{part}.weight": np.ones(shape, np.float32)
        for part, shape in (("A", (2, 96)), ("B", (64, 2)))
    }
    text = r"of model\.layers\.1\.mlp\.experts\.0\.down_proj: which is not clear"
    refused(tensors | old, text, target_modules=["experts.0.w2"], layers_to_transform=[1])


def test_parameters_of_plain_layers_are_those_layers(tmp_path: Path) -> None:
    tensors, targets = adapter_tensors({Q: (8, 8)}), {"target_parameters": [f"{Q}.weight"]}
    plain = read(write_files(tmp_path / "plain", tensors, {"r": 4, "lora_alpha": 2, "target_modules": [Q]}))
    config = {"r": 7, "lora_alpha": 9, "rank_pattern": {"q_proj.weight": 4}, "alpha_pattern": {".*weight": 2}}
    assert read(write_files(tmp_path / "same", tensors, config | targets)).generation == plain.generation


def test_an_untied_head_is_adapted_and_a_tied_one_refused(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path, {"lm_head": (20, 8)})
    assert list(read(folder).updates) == ["lm_head"]
    tied = {name: shape for name, shape in SHAPES.items() if name != "lm_head.weight"}
    with pytest.raises(CompileError, match="lm_head is tied to the embedding table"):
        read_adapter(folder, LLAMA, tied)


@pytest.mark.parametrize("name", ["lm_head.base_layer.weight", "lm_head.weight", "model.embed_tokens.weight"])
def test_copies_of_tables_are_left_aside(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    plain = read(write_adapter(tmp_path / "plain", PROJECTIONS))
    folder = write_adapter(tmp_path / "copied", PROJECTIONS)
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(tensors | {PREFIX + name: np.ones((20, 8), np.float32)}, folder / "adapter_model.safetensors")
    with caplog.at_level(logging.WARNING):
        assert read(folder, limits=AdapterLimits(num_bytes=plain.num_bytes)).generation == plain.generation
    assert f"{PREFIX}{name} is taken for a copy" in caplog.text
    save_file(tensors | {PREFIX + name: np.ones((21, 8), np.float32)}, folder / "adapter_model.safetensors")
    with pytest.raises(CompileError, match=rf"{name} has shape \(21, 8\), the base's table has \(20, 8\)"):
        read(folder)


Tensors = dict[str, np.ndarray]
A, B = f"{PREFIX}{Q}.lora_A.weight", f"{PREFIX}{Q}.lora_B.weight"


def without(name: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key: values for key, values in tensors.items() if key != name}


def changed(name: str, values: np.ndarray) -> Callable[[Tensors], Tensors]:
    return lambda tensors: tensors | {name: values}


def renamed(old: str, new: str) -> Callable[[Tensors], Tensors]:
    return lambda tensors: {key.replace(old, new): values for key, values in tensors.items()}


def filled(name: str, value: float) -> Callable[[Tensors], Tensors]:
    def fill(tensors: Tensors) -> Tensors:
        values = tensors[name].copy()
        values[1, 2] = value
        return tensors | {name: values}

    return fill


ONES = np.ones((4, 8), np.float32)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (without(A), rf"{B} has no lora_A beside it"),
        (without(B), rf"{A} has no lora_B beside it"),
        (lambda tensors: {}, "1 to 65536 tensors, got 0"),
        (changed(A, np.ones((4, 7), np.float32)), rf"{A} has shape \(4, 7\), needed is \(4, 8\)"),
        (changed(A, np.ones((4, 8, 1), np.float32)), rf"{A} has shape \(4, 8, 1\)"),
        (changed(A, np.ones((0, 8), np.float32)), rf"{A} has shape \(0, 8\)"),
        (changed(A, np.ones((), np.float32)), rf"{A} has shape \(\)"),
        (changed(B, np.ones((9, 4), np.float32)), rf"{B} has shape \(9, 4\), needed is \(8, 4\)"),
        (changed(A, np.ones((5, 8), np.float32)), rf"{A} has shape \(5, 8\), needed is \(4, 8\) for rank 4"),
        (changed(A, ONES.astype(np.float64)), rf"{A} has type F64, supported here: F32, F16, BF16"),
        (changed(A, ONES.astype(np.int8)), rf"{A} has type I8"),
        (filled(A, math.nan), rf"{A} holds nan"),
        (filled(B, math.inf), rf"{B} holds inf"),
        (filled(B, 3e38), rf"{B} holds inf once it is multiplied by the scale 2"),
        (renamed("q_proj", "qq_proj"), r"no module model\.layers\.0\.self_attn\.qq_proj, the nearest is .*q_proj"),
        (renamed("layers.0.self_attn.q", "layers.7.self_attn.q"), r"no module model\.layers\.7\.self_attn\.q_proj"),
        (renamed("self_attn.q_proj", "input_layernorm"), "no module model.layers.0.input_layernorm"),
        (renamed("layers.0.self_attn.q_proj", "norm"), "model.norm is no linear layer"),
        (renamed("layers.0.self_attn.q_proj", "embed_tokens"), "embed_tokens is the embedding table"),
        (
            renamed("layers.0.self_attn.q_proj", "layers.0.self_attn.o_proj"),
            r"o_proj.lora_A.weight is of a module that",
        ),
        (changed(f"{PREFIX}{Q}.lora_embedding_A", ONES), "lora_embedding_A: adapters of embeddings"),
        (changed(f"{PREFIX}{Q}.lora_magnitude_vector", ONES), "lora_magnitude_vector: DoRA"),
        (changed(f"{PREFIX}{Q}.lora_B.bias", ONES), r"lora_B\.bias: biases"),
        (changed(f"{PREFIX}{Q}.bias", ONES), r"q_proj\.bias: biases"),
        (changed(f"{PREFIX}lm_head.modules_to_save.weight", ONES), "modules_to_save.weight: modules_to_save"),
        (renamed(".lora", ".base_layer.lora"), r"no module .*k_proj\.base_layer, the nearest is .*k_proj: the"),
        (changed(f"{PREFIX}{Q}.weight", ONES), r"q_proj\.weight is not of LoRA"),
        (changed("x" * 1000, ONES), "names of tensors have at most 512 letters"),
        (changed("../../etc/passwd.lora_A.weight", ONES), r"passwd\.lora_A\.weight has no lora_B"),
        (changed(A.removeprefix(PREFIX), ONES), "are the same: which is not clear"),
        (changed(A.replace(".weight", ".other.weight"), ONES), "are the same|of different adapters"),
    ],
)
def test_bad_tensors_are_refused_by_name(change: Callable[[Tensors], Tensors], text: str, tmp_path: Path) -> None:
    config = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "k_proj", "qq_proj"], "layers_to_transform": [0]}
    folder = write_files(tmp_path, adapter_tensors(), config)
    read(folder)
    save_file(change(adapter_tensors()), folder / "adapter_model.safetensors")
    with pytest.raises(CompileError, match=rf"adapter_model\.safetensors: .*{text}"):
        read(folder)


def test_two_adapters_in_a_file_are_refused(tmp_path: Path) -> None:
    tensors = pair(Q, np.ones((4, 8)), np.ones((8, 4)), inside=".one") | pair(
        K, np.ones((4, 8)), np.ones((4, 4)), inside=".two"
    )
    folder = write_files(tmp_path, tensors, {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "k_proj"]})
    with pytest.raises(CompileError, match=r"two\.weight and .*one\.weight are of different adapters"):
        read(folder)


def test_missing_modules_are_refused_by_name(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path, PROJECTIONS, target_modules=["q_proj", "k_proj"])
    text = r"base_model\.model\.model\.layers\.1\.self_attn\.q_proj\.lora_A\.weight is missing"
    with pytest.raises(CompileError, match=text):
        read(folder)


def test_another_rank_than_the_config_says_is_refused(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path, {Q: (8, 8)}, rank=4, r=8)
    with pytest.raises(CompileError, match=rf"{A} has shape \(4, 8\), needed is \(8, 8\) for rank 8"):
        read(folder)


def test_limits(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path, PROJECTIONS)
    num_bytes = 4 * (2 * 4 * 8 + 4 * 8 + 4 * 4)
    assert read(folder, limits=AdapterLimits(4, num_bytes, 4)).num_bytes == num_bytes
    with pytest.raises(CompileError, match=r"k_proj\.lora_A\.weight has rank 4, at most 3 is allowed"):
        read(folder, limits=AdapterLimits(rank=3))
    with pytest.raises(CompileError, match=f"takes {num_bytes} bytes in float32, at most {num_bytes - 1}"):
        read(folder, limits=AdapterLimits(num_bytes=num_bytes - 1))
    with pytest.raises(CompileError, match="1 to 3 tensors, got 4"):
        read(folder, limits=AdapterLimits(num_tensors=3))


def test_a_rank_bomb_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """The file says that it has 4 GiB, of which the disk holds nothing."""
    rank, size = 1 << 26, (1 << 26) * 8 * 4
    header = {
        A: {"dtype": "F32", "shape": [rank, 8], "data_offsets": [0, size]},
        B: {"dtype": "F32", "shape": [8, rank], "data_offsets": [size, 2 * size]},
    }
    folder = write_adapter(tmp_path, {Q: (8, 8)}, r=rank)
    text = json.dumps(header).encode()
    with (folder / "adapter_model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + 2 * size)
    with pytest.raises(CompileError, match="bytes in float32, at most"):
        read(folder)
    with pytest.raises(CompileError, match="rank 67108864, at most 256"):
        read(folder, limits=AdapterLimits(num_bytes=1 << 40))


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1])
def test_truncated_files_are_refused(keep: int, tmp_path: Path) -> None:
    path = write_adapter(tmp_path, PROJECTIONS) / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CompileError, match=r"adapter_model\.safetensors: "):
        read(tmp_path)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match="no such folder: an adapter is a folder"):
        read(tmp_path / "nothing")
    folder = write_adapter(tmp_path, PROJECTIONS)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(CompileError, match=r"adapter_model\.bin is a pickle, which could run code: save it as"):
        read(folder)
    (folder / "adapter_model.bin").unlink()
    with pytest.raises(CompileError, match=r"has no file adapter_model\.safetensors"):
        read(folder)
    (folder / "adapter_config.json").unlink()
    with pytest.raises(CompileError, match=r"has no file adapter_config\.json"):
        read(folder)


def test_links_may_not_lead_out_of_the_root(tmp_path: Path) -> None:
    outside, root = write_adapter(tmp_path / "outside", PROJECTIONS), tmp_path / "root"
    inside = write_adapter(root / "inside", PROJECTIONS)
    assert read(inside, root=root).name == "inside"
    (root / "linked").symlink_to(outside)
    (root / "around").symlink_to(inside)
    assert read(root / "around", root=root).generation == read(inside).generation
    for folder in (root / "linked", root / ".." / "outside"):
        with pytest.raises(CompileError, match="leads out of"):
            read(folder, root=root)
    (inside / "adapter_model.safetensors").unlink()
    (inside / "adapter_model.safetensors").symlink_to(outside / "adapter_model.safetensors")
    assert read(inside).name == "inside"  # as in the hub's cache
    with pytest.raises(CompileError, match="leads out of"):
        read(inside, root=root)
    (inside / "adapter_model.safetensors").unlink()
    (inside / "adapter_model.safetensors").symlink_to("adapter_model.safetensors")
    with pytest.raises(CompileError, match="adapter_model"):
        read(inside, root=root)
