"""What an ONNX file says of itself; weights are not read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from math import prod
from pathlib import Path

import onnx

from .graph_outline import read_outline
from .inspected_files import file_facts
from .inspection import Dim, Fact, GraphFacts, Histogram, Inspection, PortFacts, TensorFacts
from .package_files import Hashing

NAMES = {"float": "float32", "double": "float64"}  # onnx has words of its own for these
BITS = {"float64": 64, "float32": 32, "float16": 16, "bfloat16": 16, "bool": 8}  # others end in their number
CONSTANT = "const."  # how ours name what is no weight


def inspect_graph(path: Path, *, verify: bool, hashing: Hashing) -> Inspection:
    """Raises PackageError."""
    model = read_outline(path)
    facts: dict[str, Fact] = {
        "made_by": f"{model.producer_name} {model.producer_version}".strip() or None,
        "ir_version": model.ir_version,
        "operator_sets": tuple(f"{each.domain or 'ai.onnx'} {each.version}" for each in model.opset_import),
    }
    files = [path, *sorted(path.parent / name for name in _locations(model))]
    return Inspection(
        "graph",
        str(path),
        facts,
        tuple(_tensors(model.graph.initializer)),
        (graph_facts(path.name, model),),
        tuple(file_facts(each, verify=verify, hashing=hashing) for each in files),
    )


def graph_facts(name: str, model: onnx.ModelProto) -> GraphFacts:
    return GraphFacts(
        name,
        _histogram(model.graph.node),
        {_operator(each.domain, each.name): _histogram(each.node) for each in model.functions},
        tuple(map(_port, model.graph.input)),
        tuple(map(_port, model.graph.output)),
        {each.domain or "ai.onnx": each.version for each in model.opset_import},
    )


def _histogram(nodes: Iterable[onnx.NodeProto]) -> Histogram:
    """Most frequent first; branches of If and bodies of loops are counted too."""
    return dict(Counter(_operator(node.domain, node.op_type) for node in _every(nodes)).most_common())


def _every(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    for node in nodes:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _every(attribute.g.node)


def _operator(domain: str, name: str) -> str:
    return f"{domain}.{name}" if domain not in ("", "ai.onnx") else name


def _port(value: onnx.ValueInfoProto) -> PortFacts:
    tensor = value.type.tensor_type
    return PortFacts(value.name, _type(tensor.elem_type), tuple(map(_dim, tensor.shape.dim)))


def _dim(dim: onnx.TensorShapeProto.Dimension) -> Dim:
    return dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?"


def _type(number: int) -> str:
    name: str = onnx.TensorProto.DataType.Name(number).lower()
    return NAMES.get(name, name)


def _tensors(initializers: Iterable[onnx.TensorProto]) -> Iterator[TensorFacts]:
    """Constants of graphs are one line: nobody wants to see each."""
    constants = 0
    for each in initializers:
        kind, shape = _type(each.data_type), tuple(each.dims)
        size = prod(shape) * _bits(kind) // 8
        if each.name.startswith(CONSTANT):
            constants += size
        else:
            yield TensorFacts(each.name, kind, shape, size)
    if constants:
        yield TensorFacts("constants", "", (), constants)


def _bits(kind: str) -> int:
    digits = kind.lstrip("abcdefghijklmnopqrstuvwxyz")
    return BITS.get(kind) or (int(digits) if digits.isdecimal() else 8)


def _locations(model: onnx.ModelProto) -> set[str]:
    """Names of files with weights; those that lead elsewhere are not looked at."""
    external = (pair for each in model.graph.initializer for pair in each.external_data if pair.key == "location")
    return {pair.value for pair in external if Path(pair.value).name == pair.value}
