"""The classifier of X-LoRA, held to its formula in numpy and to PEFT's own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from numpy.typing import NDArray
from tiny_xlora import PEFT_PREFIX, random_linears, stored_tensors
from xlora_reference import scalings

from mistralrs_onnx.graphs.classifier import Classifier, classifier
from mistralrs_onnx.graphs.emit import Drawing, Emit
from mistralrs_onnx.graphs.weights import Matrix, WeightFile
from mistralrs_onnx.ops.formats import Bytes, Float32

HIDDEN, SIZE, LAYERS, ADAPTERS = 64, 24, 5, 4
# Of the largest scaling, or of 1: float32 sums of 64 terms, three in a row, make logits of about 10, which a softmax at
# temperature 0.3 amplifies.
TOLERANCE = 3e-6
INT8 = Drawing()
Config = dict[str, Any]
OPTIONS: list[Config] = [
    {},
    {"use_bias": False},
    {"enable_relu_and_dropout": True},
    {"enable_softmax": False},
    {"softmax_temperature": 0.3},
    {"top_k_lora": 2},
    {"top_k_lora": 1, "enable_softmax": False},
    {"top_k_lora": ADAPTERS},
    {"top_k_lora": 2, "enable_softmax_topk": True},
    {"top_k_lora": 3, "enable_softmax_topk": True, "enable_softmax": False, "enable_relu_and_dropout": True},
    {"enable_softmax_topk": True, "softmax_temperature": 5},
]


@dataclass(frozen=True)
class Rows:
    """A matrix of float32 in memory."""

    values: Float32
    format: str = "F32"

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape[0], self.values.shape[1]

    def rows(self, start: int, stop: int) -> Bytes:
        return self.values[start:stop].view(np.uint8)


class Tensors:
    """Weights in memory."""

    def __init__(self, values: dict[str, Float32]) -> None:
        self._values = values

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def matrix(self, name: str) -> Matrix:
        return Rows(self._values[name])

    def vector(self, name: str) -> Float32:
        return self._values[name]


class Block:
    """The classifier drawn and loaded: (T, hidden) to (T, layers, adapters)."""

    def __init__(self, spec: Classifier, weights: dict[str, Float32], folder: Path, drawing: Drawing = INT8) -> None:
        file = WeightFile("weights")
        emit = Emit("classifier", Tensors(weights), file, drawing)
        hidden = emit.input("hidden", ir.DataType.FLOAT, ("tokens", spec.hidden_size))
        made = classifier(emit, spec, hidden)
        emit.output(made, "scalings", ir.DataType.FLOAT, ("tokens", spec.num_layers, spec.num_adapters))
        (folder / "graph.onnx").write_bytes(ir.to_proto(emit.finish()).SerializeToString())
        with (folder / "weights").open("wb") as out:
            list(file.write(out))
        self.session = onnxruntime.InferenceSession(folder / "graph.onnx", providers=["CPUExecutionProvider"])

    def __call__(self, hidden: Float32) -> Float32:
        made: Float32 = self.session.run(None, {"hidden": hidden})[0]
        return made


def spec_of(config: Config) -> Classifier:
    return Classifier(
        hidden_size=HIDDEN,
        num_adapters=ADAPTERS,
        num_layers=LAYERS if config.get("layerwise_scalings") else 1,
        depth=config["xlora_depth"],
        size=SIZE,
        bias=config.get("use_bias", True),
        relu=config.get("enable_relu_and_dropout", False),
        softmax=config.get("enable_softmax", True),
        temperature=config.get("softmax_temperature", 1.0),
        top_k=config.get("top_k_lora"),
        softmax_topk=config.get("enable_softmax_topk", False),
    )


def linears_of(config: Config) -> list[tuple[Float32, Float32 | None]]:
    count = ADAPTERS * (LAYERS if config.get("layerwise_scalings") else 1)
    sizes = {"hidden_size": HIDDEN, "xlora_size": SIZE}
    return random_linears(config | sizes, count, has_bias=config.get("use_bias", True), seed=1)


def canonical(linears: list[tuple[Float32, Float32 | None]]) -> dict[str, Float32]:
    weights = {f"xlora.classifier.{i}.weight": weight for i, (weight, _) in enumerate(linears)}
    return weights | {f"xlora.classifier.{i}.bias": bias for i, (_, bias) in enumerate(linears) if bias is not None}


def states(count: int) -> Float32:
    return np.random.default_rng(count).standard_normal((count, HIDDEN)).astype(np.float32)


def drawn(config: Config, folder: Path, drawing: Drawing = INT8) -> Block:
    return Block(spec_of(config), canonical(linears_of(config)), folder, drawing)


def error(found: Float32, expected: NDArray[Any]) -> float:
    return float(np.abs(found - expected).max() / max(1, np.abs(expected).max()))


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("layerwise", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_classifier_means_what_its_formula_says(options: Config, layerwise: bool, depth: int, tmp_path: Path) -> None:
    config = options | {"xlora_depth": depth, "layerwise_scalings": layerwise}
    block = drawn(config, tmp_path)
    for count in (1, 2, 7, 33):
        expected = scalings(states(count), linears_of(config), config, LAYERS if layerwise else 1)
        assert error(block(states(count)), expected) < TOLERANCE


def test_expanded_graphs_mean_the_same(tmp_path: Path) -> None:
    config = {"xlora_depth": 2, "top_k_lora": 2, "enable_softmax_topk": True}
    expected = scalings(states(7), linears_of(config), config, 1)
    assert error(drawn(config, tmp_path, Drawing(expand=True))(states(7)), expected) < TOLERANCE


def test_what_top_k_leaves_is_not_normalized_again(tmp_path: Path) -> None:
    made = drawn({"xlora_depth": 1, "top_k_lora": 2}, tmp_path)(states(9))
    assert ((made != 0).sum(axis=-1) == 2).all()
    assert (made.sum(axis=-1) < 0.999).all()


def test_of_equal_scalings_the_first_stay(tmp_path: Path) -> None:
    spec = Classifier(HIDDEN, ADAPTERS, top_k=2)
    zeros = {"xlora.classifier.0.weight": np.zeros((4, HIDDEN), np.float32)}
    zeros["xlora.classifier.0.bias"] = np.zeros(4, np.float32)
    assert Block(spec, zeros, tmp_path)(states(2)).tolist() == [[[0.25, 0.25, 0, 0]]] * 2


def test_the_second_softmax_leaves_zeros_alone(tmp_path: Path) -> None:
    spec = Classifier(HIDDEN, ADAPTERS, softmax=False, softmax_topk=True)
    weights = {"xlora.classifier.0.weight": np.zeros((4, HIDDEN), np.float32)}
    weights["xlora.classifier.0.bias"] = np.array([0, 2, 0, 2], np.float32)
    assert Block(spec, weights, tmp_path)(states(1)).tolist() == [[[0, 0.5, 0, 0.5]]]
    weights["xlora.classifier.0.bias"] = np.zeros(4, np.float32)
    assert Block(spec, weights, tmp_path)(states(1)).tolist() == [[[0, 0, 0, 0]]]


@pytest.mark.parametrize("num_adapters", [1, 3, 16])
@pytest.mark.parametrize("layerwise", [False, True])
def test_a_row_has_the_same_bits_in_every_batch_of_two_or_more(
    layerwise: bool, num_adapters: int, tmp_path: Path
) -> None:
    spec = Classifier(HIDDEN, num_adapters, 21 if layerwise else 1, depth=2, size=SIZE, relu=True)
    rng = np.random.default_rng(0)
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in spec.shapes().items()}
    block, x = Block(spec, weights, tmp_path), states(34)
    together = block(x)
    np.testing.assert_array_equal(together, np.concatenate([block(x[i : i + 2]) for i in range(0, 34, 2)]))
    np.testing.assert_array_equal(together[5:16], block(x[5:16]))
    np.testing.assert_array_equal(together[::-1], block(x[::-1].copy()))


def test_shapes_of_weights() -> None:
    assert Classifier(8, 3).shapes() == {"xlora.classifier.0.weight": (3, 8), "xlora.classifier.0.bias": (3,)}
    assert Classifier(8, 3, 5, depth=3, size=4, bias=False).shapes() == {
        "xlora.classifier.0.weight": (4, 8),
        "xlora.classifier.1.weight": (4, 4),
        "xlora.classifier.2.weight": (15, 4),
    }


@pytest.mark.oracle
@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("layerwise", [False, True])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_pefts_classifier_makes_the_same_scalings(options: Config, layerwise: bool, depth: int, tmp_path: Path) -> None:
    """PEFT always has biases and ReLU, and does top-k in each layer."""
    import torch
    from peft import XLoraConfig
    from peft.tuners.xlora.classifier import XLoraClassifier
    from peft.tuners.xlora.layer import XLoraLayer

    theirs = {key: value for key, value in options.items() if key not in ("use_bias", "enable_relu_and_dropout")}
    theirs |= {"xlora_depth": depth, "layerwise_scalings": layerwise}
    ours = theirs | {"enable_relu_and_dropout": True}
    config = XLoraConfig(hidden_size=HIDDEN, xlora_size=SIZE, adapters={}, **theirs)
    module = XLoraClassifier(torch.nn.Linear(1, 1), config, ADAPTERS, LAYERS, torch.device("cpu")).eval()
    tensors = stored_tensors(ours, linears_of(ours), "peft")
    module.load_state_dict({k.replace(PEFT_PREFIX, "layers"): torch.from_numpy(v) for k, v in tensors.items()})

    class Result:
        hidden_states = (torch.from_numpy(states(33))[None],)

    with torch.no_grad():
        raw = module(Result(), torch.zeros(1, 33, dtype=torch.int64))
        each = [XLoraLayer(None, None, None, i, config).get_maybe_topk_scalings(raw)[0] for i in range(LAYERS)]
    expected = torch.stack(each, dim=1).numpy()
    found = np.broadcast_to(drawn(ours, tmp_path)(states(33)), expected.shape)
    assert error(found, expected) < 2 * TOLERANCE  # float32 on both sides
    assert error(expected, scalings(states(33), linears_of(ours), ours, LAYERS)) < TOLERANCE
