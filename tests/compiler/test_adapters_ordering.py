"""Ordering files, and the adapters that they name in folders of repositories."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from golden import read_golden
from tiny_adapters import write_adapter

from mistralrs_onnx.compiler.adapters.files import find_adapters, in_folder
from mistralrs_onnx.compiler.adapters.ordering import (
    Ordering,
    Preload,
    check_identity,
    layer_numbers,
    ordered_adapters,
    parse_ordering,
    read_ordering,
)
from mistralrs_onnx.compiler.archs import find_arch
from mistralrs_onnx.compiler.config import Config
from mistralrs_onnx.compiler.errors import CompileError

PARTS = ("q", "k", "v", "o")
BASE = {"base_model_id": "HuggingFaceH4/zephyr-7b-beta"}


def ordering(**values: Any) -> Ordering:
    return parse_ordering(BASE | values)


def test_a_file_as_the_x_lora_paper_has_it(tmp_path: Path) -> None:
    layers = {f"model.layers.{i}.self_attn.{part}_proj": 4 * i + j for i in range(32) for j, part in enumerate(PARTS)}
    preload = [{"name": "adapter_3", "adapter_model_id": "lamm-mit/x-lora"}]
    order = [f"adapter_{i}" for i in range(1, 10)]
    path = tmp_path / "ordering.json"
    path.write_text(json.dumps(BASE | {"order": order, "layers": layers, "preload_adapters": preload}))
    read = read_ordering(path)
    assert read.base_model_id == BASE["base_model_id"]
    assert read.order == tuple(order)
    assert read.layers == layers
    assert read.preload_adapters == (Preload("adapter_3", "lamm-mit/x-lora"),)


def test_all_but_the_base_can_be_left_out() -> None:
    assert ordering() == ordering(order=None, layers=None, preload_adapters=None) == Ordering(BASE["base_model_id"])
    assert ordering(order=[]).order == ()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"base_model_id": None}, "base_model_id must be a string, got None"),
        ({"base_model_id": ""}, "base_model_id must be a string, got ''"),
        ({"base_model_id": 7}, "base_model_id must be a string, got 7"),
        ({"order": "adapter_1"}, "order must be a list of adapter names, got 'adapter_1'"),
        ({"order": [1]}, "order must be a list of adapter names"),
        ({"order": ["a", "b", "a"]}, "order must name each adapter once, got a twice"),
        *(
            ({"order": [name]}, "an adapter's name must be 1 to 255 printable letters without slashes")
            for name in ("", ".", "..", "../a", "/etc", "a/b", "a\\b", "C:a", "a\0b", "a\n", "x" * 256)
        ),
        ({"layers": ["model.layers.0"]}, "layers must be an object"),
        ({"layers": {"a": 0, "b": 2}}, "layers must have numbers from 0 to 1, got 2 for b"),
        ({"layers": {"a": -1}}, "layers must have numbers from 0 to 0, got -1 for a"),
        ({"layers": {"a": True}}, "got True for a"),
        ({"layers": {"a": "0"}}, "got '0' for a"),
        ({"preload_adapters": {"name": "a"}}, "preload_adapters must be a list"),
        ({"preload_adapters": [{"name": "a"}]}, "preload_adapters must be objects of name and adapter_model_id"),
        ({"preload_adapters": [{"name": "../a", "adapter_model_id": "x"}]}, "an adapter's name must be"),
        ({"preload_adapters": [{"name": "a", "adapter_model_id": None}]}, "adapter_model_id of a must be a string"),
    ],
)
def test_bad_values_are_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(CompileError, match=text):
        ordering(**values)


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"order": [], "order": []}', b"[" * 100_000])
def test_no_file_is_a_traceback(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "ordering.json"
    path.write_bytes(content)
    with pytest.raises(CompileError, match=r"ordering\.json: "):
        read_ordering(path)
    with pytest.raises(CompileError, match=r"nothing\.json cannot be read"):
        read_ordering(tmp_path / "nothing.json")


def test_unknown_keys_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        ordering(ordr=["adapter_1"])
    assert "key ordr is not known, is it order?" in caplog.text


def test_identity() -> None:
    check_identity(ordering(), None)
    check_identity(ordering(), BASE["base_model_id"])
    check_identity(ordering(), f"{BASE['base_model_id']}/", BASE["base_model_id"])
    with pytest.raises(CompileError, match=r"is for the base HuggingFaceH4/zephyr-7b-beta, the base model is other:"):
        check_identity(ordering(), "other")
    with pytest.raises(CompileError, match="the X-LoRA config is other"):
        check_identity(ordering(), None, "other")


def test_layers_are_numbered_by_canonical_name() -> None:
    model = read_golden()["phi3-4k"].model
    arch = find_arch("phi3")
    shapes = arch.decoder(Config(model.config), lambda weight: weight in model.shapes).shapes()
    layers = {"model.layers.0.self_attn.qkv_proj": 1, "model.layers.2.mlp.down_proj": 0}
    assert layer_numbers(ordering(layers=layers), arch, shapes) == {
        "model.layers.0.self_attn.q_proj": 1,
        "model.layers.0.self_attn.k_proj": 1,
        "model.layers.0.self_attn.v_proj": 1,
        "model.layers.2.mlp.down_proj": 0,
    }
    with pytest.raises(CompileError, match=r"no module model\.layers\.9\.mlp\.down_proj"):
        layer_numbers(ordering(layers={"model.layers.9.mlp.down_proj": 0}), arch, shapes)


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("")
    return root


def both(folder: str) -> tuple[str, str]:
    return f"{folder}/adapter_config.json", f"{folder}/adapter_model.safetensors"


@pytest.mark.parametrize(
    ("names", "config", "weights"),
    [
        (both("adapter_1"), *both("adapter_1")),
        (both("X-LoRA_adapters/adapter_1"), *both("X-LoRA_adapters/adapter_1")),
        ((*both("adapter_1"), *both("old/adapter_1")), *both("adapter_1")),  # its own folder comes first
        ((*both("adapter_1"), "adapter_1.json"), *both("adapter_1")),
        (("adapter_1.json", "adapter_1.safetensors"), "adapter_1.json", "adapter_1.safetensors"),
        (
            ("adapter_config_adapter_1.json", "sub/adapter_1-model.safetensors"),
            "adapter_config_adapter_1.json",
            "sub/adapter_1-model.safetensors",
        ),
        (("adapter_1/config.json", "adapter_1/w.safetensors"), "adapter_1/config.json", "adapter_1/w.safetensors"),
        (("a/adapter_1/tokenizer.json", *both("a/adapter_1")), *both("a/adapter_1")),
    ],
)
@pytest.mark.parametrize(
    "others", [(), both("adapter_10"), both("adapter_11"), ("adapter_10.json", "xlora_config.json")]
)
def test_layouts_of_repositories(
    names: tuple[str, ...], config: str, weights: str, others: tuple[str, ...], tmp_path: Path
) -> None:
    root = touch(tmp_path, *names, *others, "config.json", "model.safetensors")
    found = ordered_adapters(root, ordering(order=["adapter_1"]))
    assert found == (("adapter_1", root / config, root / weights),)


def test_adapters_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    root = touch(tmp_path, *both("b"), *both("a"), "c.json", "c.safetensors")
    assert [each.name for each in ordered_adapters(root, ordering(order=["c", "b", "a"]))] == ["c", "b", "a"]
    assert ordered_adapters(root, ordering()) == ()


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (both("adapter_10"), "has no adapter adapter_1: needed is a folder adapter_1"),
        (("xadapter_1.json", "xadapter_1.safetensors"), "has no adapter adapter_1"),
        (("adapter_1/adapter_config.json",), r"has no file adapter_model\.safetensors"),
        (("adapter_1/adapter_config.json", "adapter_1/adapter_model.bin"), "is a pickle"),
        (("adapter_1.safetensors",), r"has no \.json file of adapter adapter_1"),
        (("adapter_1.json",), r"has no \.safetensors file of adapter adapter_1"),
        ((*both("a/adapter_1"), *both("b/adapter_1")), r"several \.json files .*: a/adapter_1/.*, b/adapter_1/"),
        (("adapter_1.json", "adapter_1_x.json", "adapter_1.safetensors"), r"several \.json files"),
        ((".git/adapter_1.json", ".git/adapter_1.safetensors"), "has no adapter adapter_1"),
    ],
)
def test_what_is_not_clear_is_refused(names: tuple[str, ...], text: str, tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=text):
        find_adapters(touch(tmp_path, *names), ["adapter_1"])


def test_names_may_not_lead_out_of_the_root(tmp_path: Path) -> None:
    touch(tmp_path, *both("outside"), "root/x")
    for name in ("../outside", str(tmp_path / "outside"), ".."):
        with pytest.raises(CompileError, match="an adapter's name must be"):
            find_adapters(tmp_path / "root", [name])
    with pytest.raises(CompileError, match="nothing: no such folder"):
        find_adapters(tmp_path / "nothing", ["a"])


def test_links_to_folders_are_not_searched(tmp_path: Path) -> None:
    touch(tmp_path, *both("outside/adapter_1"), "root/sub/x")
    (tmp_path / "root" / "sub" / "link").symlink_to(tmp_path / "outside")
    (tmp_path / "root" / "sub" / "loop").symlink_to(tmp_path / "root")
    with pytest.raises(CompileError, match="has no adapter adapter_1"):
        find_adapters(tmp_path / "root", ["adapter_1"])


def test_a_folder_without_an_ordering_file_is_an_adapter(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "mine", {"q_proj": (4, 4)})
    (files,) = ordered_adapters(folder, None)
    assert files == in_folder(folder)
    assert files.name == "mine"
    with pytest.raises(CompileError, match=r"has no file adapter_config\.json"):
        ordered_adapters(tmp_path, None)
