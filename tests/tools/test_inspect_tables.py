"""An inspection as tables."""

from __future__ import annotations

import pytest

from mistralrs_onnx.inspecting.inspection import FileFacts, GraphFacts, Inspection, PortFacts, TensorFacts
from mistralrs_onnx.tools.inspect_tables import folded, part, sections
from mistralrs_onnx.tools.sections import Section

TENSORS = (
    TensorFacts("model.embed_tokens.weight", "F16", (8, 4), 64),
    *(TensorFacts(f"model.layers.{i}.mlp.up_proj.weight", "Q8_0", (2, 32), 68) for i in range(3)),
    TensorFacts("model.layers.3.mlp.up_proj.weight", "F16", (2, 32), 128),
)
CACHE = tuple(PortFacts(f"past.{i}.key", "float32", ("slots", 2)) for i in range(3))
GRAPHS = (
    GraphFacts("a.onnx", {"Add": 2, "ours.F": 1}, {"ours.F": {"Mul": 2, "Cast": 1}}, CACHE, (), {"ai.onnx": 21}),
    GraphFacts("b.onnx", {"Mul": 1}, {}, (PortFacts("ids", "int64", ()), *CACHE), (), {"ai.onnx": 21}),
)


def inspection(**values: object) -> Inspection:
    return Inspection("package", "here", {"name": "tiny", "eos_tokens": (1, 2), "adapters": None}, **values)


def section(title: str, found: Inspection, *, terminal: bool = False) -> Section:
    return next(each for each in sections(found, terminal=terminal) if each.title.startswith(title))


def test_facts_that_there_are() -> None:
    assert section("package here", inspection()).rows == [("name", "tiny"), ("eos tokens", "1, 2")]
    assert len(sections(inspection(), terminal=False)) == 1


def test_a_tree_with_branches_on_a_terminal_and_indented_elsewhere() -> None:
    names = ["model", "  embed_tokens", "  layers", "    0-2.mlp.up_proj", "    3.mlp.up_proj"]
    drawn = ["model", "├─ embed_tokens", "└─ layers", "   ├─ 0-2.mlp.up_proj", "   └─ 3.mlp.up_proj"]
    assert [row[0] for row in section("Tensors", inspection(tensors=TENSORS)).rows] == names
    tree = section("Tensors", inspection(tensors=TENSORS), terminal=True)
    assert [row[0] for row in tree.rows] == drawn
    assert tree.rows[3] == ("   ├─ 0-2.mlp.up_proj", "Q8_0", "2x32", "3", "204 bytes")


def test_a_long_tree_is_cut() -> None:
    many = tuple(TensorFacts(f"tensor{i}", "F32", (1,), 4) for i in range(100))
    assert section("Tensors", inspection(tensors=many)).note == "... and 20 lines more: --json has every tensor"


def test_sizes_by_part_and_format_with_bits_per_weight() -> None:
    assert section("Sizes", inspection(tensors=TENSORS)).rows == [
        ("feed-forward", "Q8_0", "3", "192", "204 bytes", "8.50"),
        ("feed-forward", "F16", "1", "64", "128 bytes", "16.00"),
        ("embedding", "F16", "1", "32", "64 bytes", "16.00"),
        ("all", "", "5", "288", "396 bytes", "11.00"),
    ]


def test_integers_have_no_bits_per_weight_and_constants_no_line() -> None:
    parts = (TensorFacts("mlp.qweight", "I32", (2, 2), 16), TensorFacts("constants", "", (), 9))
    assert [row[-1] for row in section("Sizes", inspection(tensors=parts)).rows] == ["", ""]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.layers.0.post_attention_layernorm.weight", "norms"),
        ("blk.0.attn_norm.weight", "norms"),
        ("token_embd.weight", "embedding"),
        ("tok_embeddings.weight", "embedding"),
        ("output.weight", "LM head"),
        ("lm_head.weight", "LM head"),
        ("blk.0.attn_output.weight", "attention"),
        ("layers.0.attention.wq.weight", "attention"),
        ("blk.0.ffn_gate_exps.weight", "experts"),
        ("model.layers.0.mlp.experts.3.up_proj.weight", "experts"),
        ("model.layers.0.mlp.gate_proj.weight", "feed-forward"),
        ("something", "other"),
    ],
)
def test_parts(name: str, expected: str) -> None:
    assert part(name) == expected


def test_operators_have_a_column_for_each_graph() -> None:
    found = section("Operators", inspection(graphs=GRAPHS))
    assert (found.head, found.rows) == (
        ("operator", "A", "B"),
        [("Add", "2", ""), ("ours.F", "1", ""), ("Mul", "", "1")],
    )
    assert section("Operators", inspection(graphs=GRAPHS[:1])).head == ("operator", "nodes")


def test_functions_say_what_they_expand_to() -> None:
    assert section("Functions", inspection(graphs=GRAPHS)).rows == [("ours.F", "2 Mul, 1 Cast")]


def test_inputs_of_layers_and_graphs_share_a_line() -> None:
    assert section("Inputs", inspection(graphs=GRAPHS)).rows == [
        ("past.0-2.key", "float32", "(slots, 2)", "AB"),
        ("ids", "int64", "()", "B"),
    ]


def test_names_with_one_number_in_several_places() -> None:
    ports = [PortFacts(f"l.{i}.q+l.{i}.k.A", "float32", ()) for i in range(2)]
    assert folded([*ports, PortFacts("l.0.e.1", "float32", ())]) == [
        ("l.0-1.q+k.A", "float32", "()"),
        ("l.0.e.1", "float32", "()"),
    ]


def test_the_first_lines_of_a_template() -> None:
    found = section("Chat template", inspection(chat_template="\n".join(map(str, range(9)))))
    assert (found.rows, found.note) == ([(str(i),) for i in range(6)], "... and 3 lines more")


def test_files_and_what_is_wrong_with_them() -> None:
    files = (FileFacts("good", 10, "a" * 64), FileFacts("bad", 10, None, "is missing"))
    assert section("Files", inspection(files=files)).rows == [
        ("good", "10 bytes", "a" * 64),
        ("bad", "10 bytes", ""),
        ("  is missing",),
    ]
    assert section("Files", inspection(files=files), terminal=True).rows[0][2] == f"{'a' * 16}..."
