"""Mixtures of experts, held to a loop over tokens in numpy: every kind of router, expert and weight format."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from machine import TAKES_SINGLE_ROWS
from numpy.typing import NDArray

from mistralrs_onnx.graphs.emit import Drawing, Emit
from mistralrs_onnx.graphs.mlp import Gated
from mistralrs_onnx.graphs.moe import ClampedGated, MoE, moe
from mistralrs_onnx.graphs.weights import Matrix, WeightFile
from mistralrs_onnx.ops.formats import Bytes, Float32, find_format

HIDDEN, WIDE = 64, 96
INT8 = Drawing()
FLOAT32 = Drawing(float_activations=True)
MIXTRAL = MoE(8, 2, Gated(WIDE, "silu"))
QWEN2 = MoE(12, 4, Gated(32, "silu"), softmax="all", shared=Gated(WIDE, "silu"))
GPT_OSS = MoE(8, 4, ClampedGated(WIDE, limit=7.0, slope=1.702))
STORED = ["F32", "Q4_0", "Q4_1", "Q8_0", "MXFP4"]
KINDS = {"mixtral": MIXTRAL, "qwen2": QWEN2, "gpt-oss": GPT_OSS}


@dataclass(frozen=True)
class Rows:
    """A matrix in memory."""

    raw: Bytes
    shape: tuple[int, int]
    format: str

    def rows(self, start: int, stop: int) -> Bytes:
        return self.raw[start:stop]

    def exact(self) -> NDArray[np.float64]:
        if self.format == "F32":
            return self.raw.view(np.float32).astype(np.float64)
        meaning = find_format(self.format)
        return meaning.dequantize(meaning.split(self.raw)).astype(np.float64)


def dense(values: Float32) -> Rows:
    return Rows(np.ascontiguousarray(values).view(np.uint8), (values.shape[0], values.shape[1]), "F32")


def random_rows(rng: np.random.Generator, shape: tuple[int, int], stored: str) -> Rows:
    """Numbers around 2 / sqrt(columns), so that a product is about as large as its input."""
    values = (rng.standard_normal(shape) * 2 / np.sqrt(shape[1])).astype(np.float32)
    if stored == "F32":
        return dense(values)
    if stored == "MXFP4":  # files have it, we do not make it: random levels of one scale
        blocks = rng.integers(0, 256, (shape[0], shape[1] // 32, 17), np.uint8)
        blocks[..., 0] = 127 - 4
        return Rows(blocks.reshape(shape[0], -1), shape, stored)
    return Rows(find_format(stored).quantize(values), shape, stored)


@dataclass(frozen=True)
class Tensors:
    """Weights of a block, in memory."""

    matrices: dict[str, Rows]
    vectors: dict[str, Float32]

    def __contains__(self, name: str) -> bool:
        return name.removesuffix(".weight") in self.matrices or name in self.vectors

    def matrix(self, name: str) -> Matrix:
        return self.matrices[name.removesuffix(".weight")]

    def vector(self, name: str) -> Float32:
        return self.vectors[name]

    def linear(self, x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        return np.asarray(x @ self.matrices[name].exact().T + self.vectors.get(f"{name}.bias", 0.0))


def random_tensors(spec: MoE, stored: str = "F32") -> Tensors:
    """Experts in one format, the rest in float32; biases where the kind of expert has them."""
    rng = np.random.default_rng(0)
    tensors = Tensors({}, {})
    for name, shape in spec.matrices(HIDDEN).items():
        tensors.matrices[name] = random_rows(rng, shape, stored if name.startswith("experts") else "F32")
        if isinstance(spec.expert, ClampedGated):
            tensors.vectors[f"{name}.bias"] = rng.standard_normal(shape[0]).astype(np.float32)
    return tensors


class Block:
    """The block drawn and loaded: x to y, both float32 (tokens, hidden)."""

    def __init__(self, spec: MoE, weights: Tensors, folder: Path, drawing: Drawing = INT8) -> None:
        file = WeightFile("weights")
        emit = Emit("moe", weights, file, drawing)
        x = emit.input("x", ir.DataType.FLOAT, ("tokens", HIDDEN))
        emit.output(moe(emit, spec, x), "y", ir.DataType.FLOAT, ("tokens", HIDDEN))
        self.model = emit.finish()
        (folder / "moe.onnx").write_bytes(ir.to_proto(self.model).SerializeToString())
        with (folder / "weights").open("wb") as out:
            list(file.write(out))
        options = onnxruntime.SessionOptions()
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / "profile")
        self.session = onnxruntime.InferenceSession(folder / "moe.onnx", options, providers=["CPUExecutionProvider"])

    def __call__(self, x: Float32) -> Float32:
        y: Float32 = self.session.run(None, {"x": x})[0]
        return y

    def num_nodes_run(self, kind: str) -> int:
        events = json.loads(Path(self.session.end_profiling()).read_text())
        return sum(event.get("args", {}).get("op_name") == kind for event in events)


def tokens(count: int) -> Float32:
    return np.random.default_rng(count).standard_normal((count, HIDDEN)).astype(np.float32)


def sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-x))


def softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    shares = np.exp(x - x.max())
    return shares / shares.sum()


def expert(spec: Gated | ClampedGated, weights: Tensors, name: str, x: NDArray[np.float64]) -> NDArray[np.float64]:
    gate, up = weights.linear(x, f"{name}.gate_proj"), weights.linear(x, f"{name}.up_proj")
    if isinstance(spec, ClampedGated):
        gate, up = np.minimum(gate, spec.limit), np.clip(up, -spec.limit, spec.limit)
        middle = gate * sigmoid(spec.slope * gate) * (up + 1)
    else:
        middle = gate * sigmoid(gate) * up
    return weights.linear(middle, f"{name}.down_proj")


def token(spec: MoE, weights: Tensors, x: NDArray[np.float64]) -> NDArray[np.float64]:
    """The meaning of the block, for one token, in float64."""
    logits = weights.linear(x, "gate")
    chosen = np.argsort(-logits, kind="stable")[: spec.experts_per_token]
    shares = softmax(logits)[chosen] if spec.softmax == "all" else softmax(logits[chosen])
    y = sum(s * expert(spec.expert, weights, f"experts.{e}", x) for s, e in zip(shares, chosen, strict=True))
    if spec.shared:
        y = y + sigmoid(weights.linear(x, "shared_expert_gate")) * expert(spec.shared, weights, "shared_expert", x)
    return np.asarray(y)


def mixture(spec: MoE, weights: Tensors, x: Float32) -> NDArray[np.float64]:
    return np.stack([token(spec, weights, row) for row in x.astype(np.float64)])


def error(found: Float32, expected: NDArray[np.float64]) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("expand", [False, True])
@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("kind", KINDS)
def test_a_block_means_what_a_loop_over_tokens_says(kind: str, stored: str, expand: bool, tmp_path: Path) -> None:
    weights = random_tensors(KINDS[kind], stored)
    block = Block(KINDS[kind], weights, tmp_path, replace(FLOAT32, expand=expand))
    for count in (1, 2, 5, 33):
        # Float32 sums of 64 to 96 terms, twice.
        assert error(block(tokens(count)), mixture(KINDS[kind], weights, tokens(count))) < 3e-6


@pytest.mark.parametrize("stored", STORED)
@pytest.mark.parametrize("kind", KINDS)
def test_a_token_has_the_same_bits_alone_and_in_a_batch(kind: str, stored: str, tmp_path: Path) -> None:
    weights = random_tensors(KINDS[kind], stored)
    drawing = Drawing(row_multiple=1 if TAKES_SINGLE_ROWS else 2)
    block, x = Block(KINDS[kind], weights, tmp_path, drawing), tokens(33)
    together = block(x)
    np.testing.assert_array_equal(together, np.concatenate([block(row[None]) for row in x]))
    np.testing.assert_array_equal(together[::-1], block(x[::-1].copy()))
    # Int8 activations: half a step of 127 per term, averaged by the sums, three in a row.
    assert error(together, mixture(KINDS[kind], weights, x)) < 3e-2


def test_where_kernels_need_pairs_of_rows_experts_see_pairs(tmp_path: Path) -> None:
    """4-bit blocks of 64 take one row on another path than two, and a single token sends one row to its experts."""
    spec = replace(MIXTRAL, expert=Gated(128, "silu"))
    x, weights = tokens(33), random_tensors(spec, "int4-64")
    for row_multiple, same in ((1, False), (2, True)):
        block = Block(spec, weights, tmp_path, Drawing(row_multiple=row_multiple))
        assert (block(x) == np.concatenate([block(row[None]) for row in x])).all() == same


@pytest.mark.parametrize("stored", ["F32", "Q4_1"])
def test_all_tokens_may_choose_the_same_experts(stored: str, tmp_path: Path) -> None:
    weights = random_tensors(MIXTRAL, stored)
    gate = np.full((8, HIDDEN), -1.0, np.float32)
    gate[[6, 3]] = [[2.0], [1.0]]
    weights.matrices["gate"] = dense(gate)
    x = np.abs(tokens(9))
    assert error(Block(MIXTRAL, weights, tmp_path, FLOAT32)(x), mixture(MIXTRAL, weights, x)) < 3e-6


def test_of_equal_logits_the_first_experts_are_chosen(tmp_path: Path) -> None:
    weights = random_tensors(MIXTRAL)
    weights.matrices["gate"] = dense(np.zeros((8, HIDDEN), np.float32))
    x = tokens(3)
    expected = [expert(MIXTRAL.expert, weights, f"experts.{e}", x.astype(np.float64)) for e in (0, 1)]
    assert error(Block(MIXTRAL, weights, tmp_path, FLOAT32)(x), (expected[0] + expected[1]) / 2) < 3e-6


@pytest.mark.parametrize(("spec", "experts"), [(MIXTRAL, 2), (GPT_OSS, 4)])
def test_experts_without_tokens_do_not_run(spec: MoE, experts: int, tmp_path: Path) -> None:
    block = Block(spec, random_tensors(spec), tmp_path)
    block(tokens(1))
    assert block.num_nodes_run("QuickGelu") == experts


@pytest.mark.parametrize("stored", STORED)
def test_weights_are_widened_outside_of_branches(stored: str, tmp_path: Path) -> None:
    """What hosts fold inside a branch stays in memory beside what kernels make of it: twice the weights."""
    model = Block(MIXTRAL, random_tensors(MIXTRAL, stored), tmp_path).model
    branches = [node.attributes["then_branch"].as_graph() for node in model.graph if node.op_type == "If"]
    kinds = {node.op_type for branch in branches for node in branch}
    assert kinds <= {"Gather", "CentredLinear", "OffsetLinear", "MatMul", "Gemm", "Split", "QuickGelu", "Mul"}
    assert not any(branch.initializers for branch in branches)


def test_names_of_weights() -> None:
    shapes = replace(QWEN2, num_experts=2).matrices(HIDDEN)
    assert shapes == {
        "gate": (2, 64),
        "shared_expert_gate": (1, 64),
        "experts.0.gate_proj": (32, 64),
        "experts.0.up_proj": (32, 64),
        "experts.0.down_proj": (64, 32),
        "experts.1.gate_proj": (32, 64),
        "experts.1.up_proj": (32, 64),
        "experts.1.down_proj": (64, 32),
        "shared_expert.gate_proj": (96, 64),
        "shared_expert.up_proj": (96, 64),
        "shared_expert.down_proj": (64, 96),
    }


@pytest.mark.oracle
@pytest.mark.parametrize("normalized", [True, False])
def test_qwen2_moe_as_transformers_computes_it(normalized: bool, tmp_path: Path) -> None:
    import transformers
    from transformers.models.qwen2_moe.modeling_qwen2_moe import Qwen2MoeSparseMoeBlock

    config = transformers.Qwen2MoeConfig(
        hidden_size=HIDDEN,
        num_experts=12,
        num_experts_per_tok=4,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=WIDE,
        norm_topk_prob=normalized,
    )
    spec = replace(QWEN2, softmax="chosen" if normalized else "all")
    compare(spec, Qwen2MoeSparseMoeBlock(config), tmp_path)


@pytest.mark.oracle
def test_mixtral_as_transformers_computes_it(tmp_path: Path) -> None:
    import transformers
    from transformers.models.mixtral.modeling_mixtral import MixtralSparseMoeBlock

    config = transformers.MixtralConfig(
        hidden_size=HIDDEN, intermediate_size=WIDE, num_local_experts=8, num_experts_per_tok=2
    )
    compare(MIXTRAL, MixtralSparseMoeBlock(config), tmp_path)


@pytest.mark.oracle
def test_gpt_oss_as_transformers_computes_it(tmp_path: Path) -> None:
    import transformers
    from transformers.models.gpt_oss.modeling_gpt_oss import GptOssMLP

    config = transformers.GptOssConfig(
        hidden_size=HIDDEN, intermediate_size=WIDE, num_local_experts=8, num_experts_per_tok=4
    )
    compare(GPT_OSS, GptOssMLP(config), tmp_path)


def compare(spec: MoE, module: Any, folder: Path) -> None:
    import torch

    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0, 0.3, generator=random)
        expected = module(torch.from_numpy(tokens(33))[None])
    found = Block(spec, canonical({k: v.numpy() for k, v in module.state_dict().items()}), folder, FLOAT32)(tokens(33))
    rows = expected[0] if isinstance(expected, tuple) else expected
    assert error(found, rows.numpy().reshape(33, HIDDEN)) < 1e-5  # float32 sums on both sides


def canonical(state: dict[str, Float32]) -> Tensors:
    """The state of a module of transformers, which keeps all experts in one tensor, as names of single matrices."""
    transposed = "experts.gate_up_proj_bias" in state  # gpt-oss: also gate and up in turns
    single = {name.replace("router", "gate"): v for name, v in state.items() if not name.startswith("experts")}
    for name in ("gate_up_proj", "down_proj"):
        for e, matrix in enumerate(state[f"experts.{name}"]):
            single[f"experts.{e}.{name}.weight"] = matrix.T if transposed else matrix
            if transposed:
                single[f"experts.{e}.{name}.bias"] = state[f"experts.{name}_bias"][e]
    for name in [name for name in single if "gate_up_proj" in name]:
        both = single.pop(name)
        parts = (both[0::2], both[1::2]) if transposed else np.split(both, 2)
        single |= {name.replace("gate_up", part): rows for part, rows in zip(("gate", "up"), parts, strict=True)}
    matrices = {n.removesuffix(".weight"): dense(v) for n, v in single.items() if v.ndim == 2}
    return Tensors(matrices, {n: np.ascontiguousarray(v) for n, v in single.items() if v.ndim == 1})
