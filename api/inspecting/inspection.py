"""What can be seen of a package, a graph or a checkpoint without running it: facts, tensors, graphs, files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

Kind = Literal["package", "graph", "gguf", "ggml", "safetensors"]
Fact = str | int | tuple[str | int, ...] | None
Dim = int | str
Histogram = Mapping[str, int]  # numbers of nodes by operator


class TensorFacts(NamedTuple):
    """A tensor as it is stored. `type`: a dense type, a block format, or the integers that others make weights of."""

    name: str
    type: str
    shape: tuple[int, ...]
    num_bytes: int


class PortFacts(NamedTuple):
    """An input or output of a graph; sizes that are not fixed have names."""

    name: str
    type: str
    shape: tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """`operators`: what the graph calls; those of domain mistralrs are in `functions`, with what each of them calls."""

    file: str
    operators: Histogram
    functions: Mapping[str, Histogram]
    inputs: tuple[PortFacts, ...]
    outputs: tuple[PortFacts, ...]
    opsets: Mapping[str, int]


class FileFacts(NamedTuple):
    """`sha256`: as recorded, or as computed where nothing is; None: neither. `problem`: how the file differs.

    `is_compared`: the sum was computed, and there was one to compare it with.
    """

    name: str
    size: int
    sha256: str | None
    problem: str | None = None
    is_compared: bool = False


@dataclass(frozen=True, slots=True)
class Inspection:
    """`facts`: in the order in which to show them."""

    kind: Kind
    path: str
    facts: Mapping[str, Fact]
    tensors: tuple[TensorFacts, ...] = ()
    graphs: tuple[GraphFacts, ...] = ()
    files: tuple[FileFacts, ...] = ()
    chat_template: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    @property
    def problems(self) -> list[str]:
        return [f"{file.name} {file.problem}" for file in self.files if file.problem is not None]

    def to_json(self) -> dict[str, Any]:
        """For programs: everything, sizes in bytes."""
        values = asdict(self)
        values["tensors"] = [each._asdict() for each in self.tensors]
        values["files"] = [each._asdict() for each in self.files]
        for graph, shown in zip(self.graphs, values["graphs"], strict=True):
            shown["inputs"] = [each._asdict() for each in graph.inputs]
            shown["outputs"] = [each._asdict() for each in graph.outputs]
        return values
