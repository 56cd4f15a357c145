"""In-situ quantization: what is chosen for which matrix, and that the rows are those of the chosen type."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from mistralrs_onnx.compiler import isq as isq_module
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.isq import (
    IN_BLOCKS_OF_32,
    PROMOTED,
    Choice,
    Isq,
    Plan,
    Requantized,
    RequantizedMatrix,
    fitting,
    floats,
    make_plan,
    promoted,
)
from mistralrs_onnx.compiler.isq_map import BITS, GGML_TYPES, Rule
from mistralrs_onnx.graphs.weights import Matrix, Stacked
from mistralrs_onnx.ops.formats import find_format

Array = NDArray[np.float32]

TYPES = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
TABLE, HEAD = "model.embed_tokens.weight", "lm_head.weight"
DOWN, UP, ROUTER = (f"model.layers.0.mlp.{part}.weight" for part in ("down_proj", "up_proj", "gate"))


@dataclass
class Stored:
    """A matrix in memory; it notes which rows were read, and by which threads."""

    raw: NDArray[np.uint8]
    columns: int
    format: str = "F32"
    reads: list[tuple[int, int]] = field(default_factory=list)
    readers: set[int] = field(default_factory=set)

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.raw), self.columns

    def rows(self, start: int, stop: int) -> NDArray[np.uint8]:
        self.reads.append((start, stop))
        self.readers.add(threading.get_ident())
        return self.raw[start:stop]


def stored(values: Array, kind: str = "F32") -> Stored:
    if kind in TYPES:
        return Stored(values.astype(TYPES[kind]).view(np.uint8), values.shape[1], kind)
    return Stored(find_format(kind).quantize(values), values.shape[1], kind)


def random(rows: int, columns: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).standard_normal((rows, columns)).astype(np.float32)


@dataclass
class Model:
    """Weights by name."""

    matrices: dict[str, Stored]

    def __contains__(self, name: str) -> bool:
        return name in self.matrices or name == "model.norm.weight"

    def matrix(self, name: str) -> Matrix:
        return self.matrices[name]

    def vector(self, name: str) -> Array:
        assert name == "model.norm.weight"
        return np.arange(4, dtype=np.float32)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: matrix.shape for name, matrix in self.matrices.items()} | {"model.norm.weight": (4,)}


def model(kind: str = "F32", columns: int = 256) -> Model:
    return Model({name: stored(random(8, columns), kind) for name in (TABLE, UP, DOWN, ROUTER, HEAD)})


def chosen(isq: Isq, weights: Model) -> dict[str, str]:
    return {choice.name: choice.chosen for choice in make_plan(isq, weights, weights.shapes).describe()}


def test_matrices_become_the_type_and_tables_one_step_more_but_routers_and_norms_stay() -> None:
    assert chosen(Isq("Q4_K"), model()) == {TABLE: "Q5_K", UP: "Q4_K", DOWN: "Q4_K", HEAD: "Q5_K"}


def test_the_caller_says_what_else_stays() -> None:
    weights = model()
    plan = make_plan(Isq("Q4_K"), weights, weights.shapes, keep=lambda name: "mlp" in name)
    assert set(plan.choices) == {TABLE, HEAD}


def test_promotion_goes_up_one_number_of_bits_until_eight() -> None:
    ladder = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q8_0"]
    assert ladder == list(BITS.values())
    assert [promoted(name) for name in ladder] == [*ladder[1:], "Q8_0"]
    assert promoted("int4-64") == "int8-64"
    assert [promoted(name) for name in ("int8-64", "Q8_1", "Q8_K")] == ["int8-64", "Q8_1", "Q8_K"]
    assert {*PROMOTED, *PROMOTED.values()} <= {*GGML_TYPES}


@pytest.mark.parametrize(
    ("wanted", "columns", "found"),
    [
        ("Q4_K", 512, "Q4_K"),
        ("Q4_K", 576, "Q5_0"),
        ("Q2_K", 96, "Q4_0"),
        ("Q8_K", 96, "Q8_0"),
        ("Q5_1", 96, "Q5_1"),
        ("Q4_K", 80, None),
        ("Q4_0", 80, None),
        ("int4-256", 576, "int4-64"),
        ("int8-32", 80, "int8-16"),
        ("int4-16", 40, None),
    ],
)
def test_rows_that_are_no_whole_blocks_get_the_next_best_type(wanted: str, columns: int, found: str | None) -> None:
    assert fitting(wanted, columns) == found


def test_what_takes_the_place_of_a_type_has_no_fewer_bits_a_weight() -> None:
    def bits(name: str) -> float:
        return find_format(name).type_size / find_format(name).block_size

    assert set(IN_BLOCKS_OF_32) == {name for name in GGML_TYPES if find_format(name).block_size > 32}
    # Q8_K has float32 scales: a little more, for nothing.
    assert all(bits(other) >= bits(name) for name, other in IN_BLOCKS_OF_32.items() if name != "Q8_K")


def test_the_plan_says_what_fell_back_and_why() -> None:
    weights = Model({UP: stored(random(4, 256)), DOWN: stored(random(4, 96)), "x.odd.weight": stored(random(4, 40))})
    plan = make_plan(Isq("Q4_K"), weights, weights.shapes)
    assert plan.describe()[0] == Choice(UP, "F32", "Q4_K", "as asked")
    down, odd = plan.fallbacks
    assert (down.name, down.chosen, down.reason) == (
        DOWN,
        "Q5_0",
        "as asked; 96 columns are no whole blocks of Q4_K: Q5_0 instead",
    )
    assert (odd.chosen, odd.source) == ("F16", "F32")


def test_odd_rows_that_are_small_already_stay_as_they_are() -> None:
    weights = Model({UP: stored(random(4, 40), "BF16")})
    assert chosen(Isq("Q4_K"), weights) == {UP: "BF16"}


def test_the_first_rule_that_matches_decides_and_rules_are_not_promoted() -> None:
    rules = (Rule("*.up_proj", "none"), Rule("model.layers.*", "F16"), Rule("lm_head", "Q4_K"))
    assert chosen(Isq("Q4_K", rules), model()) == {TABLE: "Q5_K", UP: "F32", DOWN: "F16", HEAD: "Q4_K"}


def test_rules_alone_leave_the_rest_as_it_is() -> None:
    assert chosen(Isq(None, (Rule("*.up_proj", "Q8_0"),)), model()) == {
        TABLE: "F32",
        UP: "Q8_0",
        DOWN: "F32",
        HEAD: "F32",
    }


def test_a_rule_that_matches_nothing_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(CompileError, match=r"'\*\.downproj' matches no matrix.*model\.layers\.\*\.mlp\.down_proj"):
        chosen(Isq("Q4_K", (Rule("*.downproj", "Q8_0"),)), model())


def test_quantized_weights_are_changed_only_on_request() -> None:
    with pytest.raises(
        CompileError, match=r"4 matrices are quantized already, such as model.embed_tokens.weight in Q4_1"
    ):
        chosen(Isq("Q4_K"), model("Q4_1"))
    assert chosen(Isq("Q4_K", requantize=True), model("Q4_1"))[UP] == "Q4_K"


def test_quantized_weights_that_the_plan_leaves_alone_are_no_reason_to_refuse() -> None:
    weights = model()
    weights.matrices[UP] = stored(random(8, 256), "Q4_K")
    weights.matrices[DOWN] = stored(random(8, 256), "Q6_K")
    assert chosen(Isq("Q4_K", (Rule("*.down_proj", "none"),)), weights)[UP] == "Q4_K"
    assert chosen(Isq(None), model("Q4_1")) == dict.fromkeys((TABLE, UP, DOWN, HEAD), "Q4_1")


def requantized(weights: Model, isq: Isq) -> Requantized:
    return Requantized(weights, make_plan(isq, weights, weights.shapes))


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0"])
@pytest.mark.parametrize("name", [*GGML_TYPES, "int4-32", "int8-128"])
def test_rows_are_those_of_the_quantizer(kind: str, name: str) -> None:
    weights = model(kind)
    found = requantized(weights, Isq(name, requantize=True)).matrix(UP)
    assert (found.format, found.shape) == (name, (8, 256))
    expected = find_format(name).quantize(floats(weights.matrices[UP].raw, kind))
    if kind == name:
        expected = weights.matrices[UP].raw
    np.testing.assert_array_equal(found.rows(0, 8), expected)
    np.testing.assert_array_equal(found.rows(3, 5), expected[3:5])


def test_only_the_rows_asked_for_are_read() -> None:
    weights = model()
    requantized(weights, Isq("Q4_0")).matrix(UP).rows(2, 4)
    assert weights.matrices[UP].reads == [(2, 4)]


def test_everything_else_passes_through() -> None:
    weights = model()
    found = requantized(weights, Isq("Q4_0"))
    assert found.matrix(ROUTER) is weights.matrices[ROUTER]
    assert UP in found
    assert "other" not in found
    np.testing.assert_array_equal(found.vector("model.norm.weight"), np.arange(4))


def test_matrices_of_one_choice_can_be_stacked() -> None:
    found = requantized(model(), Isq("Q4_0"))
    both = Stacked((found.matrix(UP), found.matrix(DOWN)))
    assert (both.format, both.shape, both.rows(6, 10).shape) == ("Q4_0", (16, 256), (4, 144))


@pytest.mark.parametrize("threads", [1, 3])
def test_pieces_are_quantized_by_threads_and_read_by_one(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    monkeypatch.setattr(isq_module, "PIECE", 4 * 256)
    values = random(50, 256)
    source = stored(values, "F16")
    whole = find_format("Q4_K").quantize(values.astype(np.float16).astype(np.float32))
    found = RequantizedMatrix(source, "Q4_K", "w", threads)
    np.testing.assert_array_equal(found.rows(1, 50), whole[1:])
    assert source.reads == [(start, min(start + 4, 50)) for start in range(1, 50, 4)]
    assert source.readers == {threading.get_ident()}


def test_dense_targets_are_cast() -> None:
    values = random(4, 8)
    found = RequantizedMatrix(stored(values), "BF16", "w").rows(0, 4)
    np.testing.assert_array_equal(found.view(ml_dtypes.bfloat16), values.astype(ml_dtypes.bfloat16))


@pytest.mark.parametrize("value", [np.nan, np.inf, -1e5])
def test_weights_that_scales_cannot_reach_are_refused_by_name(value: float) -> None:
    values = random(4, 256)
    values[2, 3] = value
    with pytest.raises(CompileError, match=r"w\.weight holds"):
        RequantizedMatrix(stored(values), "Q4_K", "w.weight").rows(0, 4)


def test_a_plan_without_a_name_leaves_it_alone() -> None:
    weights = model()
    assert Requantized(weights, Plan({})).matrix(UP) is weights.matrices[UP]
