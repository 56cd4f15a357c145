"""Names of types that people write, and files that choose types by pattern."""

from __future__ import annotations

from pathlib import Path

import pytest

from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.isq_map import GGML_TYPES, Rule, parse_map_type, parse_type, read_isq_map
from mistralrs_onnx.ops.formats import find_format


def test_the_twelve_names_are_known_in_any_spelling() -> None:
    for name in GGML_TYPES:
        for spelling in (name, name.lower(), name.replace("_K", "K"), name.replace("_", "").lower(), f" {name} "):
            assert parse_type(spelling) == name


def test_a_number_is_that_many_bits() -> None:
    numbers = {"2": "Q2_K", "3": "Q3_K", "4": "Q4_K", "5": "Q5_K", "6": "Q6_K", "8": "Q8_0"}
    assert {number: parse_type(number) for number in numbers} == numbers


@pytest.mark.parametrize(
    ("text", "block_size", "name"),
    [
        ("int4", None, "int4-32"),
        ("int4", 128, "int4-128"),
        ("INT8-64", None, "int8-64"),
        ("int8-64", 64, "int8-64"),
    ],
)
def test_our_own_types_take_a_block_size(text: str, block_size: int | None, name: str) -> None:
    assert parse_type(text, block_size) == name


def test_every_name_is_a_format_that_can_be_made() -> None:
    for name in [*GGML_TYPES, *(f"int{bits}-{size}" for bits in (4, 8) for size in (16, 32, 64, 128, 256))]:
        assert find_format(parse_type(name)).name == name


@pytest.mark.parametrize(
    ("text", "block_size", "said"),
    [
        ("Q4_L", None, "did you mean Q4_"),
        ("Q4_L", None, "Known: Q4_0, Q4_1"),
        ("7", None, "'7' is unknown"),
        ("f16", None, "'f16' is unknown"),
        ("int4", 48, "one of 16, 32, 64, 128, 256, got 48"),
        ("int4-128", 64, "disagree"),
        ("Q4K", 32, "leave it out"),
        ("", None, "is unknown"),
    ],
)
def test_other_names_are_refused_with_advice(text: str, block_size: int | None, said: str) -> None:
    with pytest.raises(CompileError, match=said):
        parse_type(text, block_size)


def test_maps_also_know_dense_types_and_none() -> None:
    names = {"f32": "F32", "F16": "F16", "bf16": "BF16", "none": "none", "q6k": "Q6_K"}
    assert {text: parse_map_type(text) for text in names} == names
    with pytest.raises(CompileError, match="none, f32, f16, bf16"):
        parse_map_type("f8")


LINES = """
# The last projection of each block matters most.
model.layers.0.*      none     # the first layer stays
*.mlp.down_proj       Q6_K

lm_head               8
"""
JSON = '{"model.layers.0.*": "none",\n "*.mlp.down_proj": "Q6_K",\n "lm_head": "8"}'
TOML = '"model.layers.0.*" = "none"\n"*.mlp.down_proj" = "Q6_K"\nlm_head = "8"'


@pytest.mark.parametrize(("name", "text"), [("map", LINES), ("map.txt", LINES), ("m.json", JSON), ("m.TOML", TOML)])
def test_rules_come_in_the_order_of_the_file(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert read_isq_map(path) == (
        Rule("model.layers.0.*", "none"),
        Rule("*.mlp.down_proj", "Q6_K"),
        Rule("lm_head", "Q8_0"),
    )


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("map", "a Q4K\nb Q4K Q5K", "line 2: must be a pattern and a type, got 'b Q4K Q5K'"),
        ("map", "a Q4K\n\nb Q44", "line 3: quantization type 'Q44' is unknown"),
        ("map", "# nothing", "holds no rule"),
        ("m.json", '{"a": "Q4K",\n"b": 4}', "line 2: the type of 'b' must be a string, got 4"),
        ("m.json", '{"a": "Q4K",\n"b": "x"}', "line 2: quantization type 'x'"),
        ("m.json", '{"a": "Q4K",\n]', "line 2: not JSON"),
        ("m.json", '["a"]', "must be an object"),
        ("m.json", "[" * 100_000, "nested too deeply"),
        ("m.toml", 'a = "Q4K"\nb = x', "not TOML.*line 2"),
        ("m.toml", "a = " + "[" * 100_000, "nested too deeply"),
        ("m.toml", 'a = "Q4K"\nmodel.layers = "Q4K"', "line 2: patterns have dots, put model.… in quotes"),
        ("m.toml", 'a = "Q4K"\nb = 4', "line 2: the type of 'b' must be a string"),
    ],
)
def test_mistakes_in_a_map_are_named_with_their_line(tmp_path: Path, name: str, text: str, said: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(CompileError, match=said):
        read_isq_map(path)


def test_a_map_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"missing.*cannot be read"):
        read_isq_map(tmp_path / "missing")
    (tmp_path / "map").write_bytes(b"\xff\xfe")
    with pytest.raises(CompileError, match="cannot be read"):
        read_isq_map(tmp_path / "map")


def test_of_a_name_given_twice_in_json_the_first_counts(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text('{"a": "Q4K", "a": "Q5K"}', encoding="utf-8")
    assert read_isq_map(path)[0] == Rule("a", "Q4_K")


def test_patterns_match_canonical_names_with_or_without_weight() -> None:
    assert Rule("*.down_proj", "Q6_K").matches("model.layers.3.mlp.down_proj.weight")
    assert Rule("*.down_proj.weight", "Q6_K").matches("model.layers.3.mlp.down_proj")
    assert not Rule("down_proj", "Q6_K").matches("model.layers.3.mlp.down_proj.weight")
    assert not Rule("*.Down_proj", "Q6_K").matches("model.layers.3.mlp.down_proj.weight")
