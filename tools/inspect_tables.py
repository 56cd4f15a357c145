"""An inspection as tables: facts, tree, sizes, graphs, files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from string import ascii_uppercase

from mistralrs_onnx.compiler.sizes import size_text
from mistralrs_onnx.inspecting.inspection import Fact, FileFacts, GraphFacts, Inspection, PortFacts, TensorFacts

from .layer_tree import Twig, ranges, tree, twigs
from .sections import Row, Section

PARTS = (  # the first that matches; names of canonical weights, of GGUF and of ggml
    ("norms", re.compile(r"norm|\bln_|layernorm")),
    ("embedding", re.compile(r"embed|embd|\bwte\b")),
    ("LM head", re.compile(r"^(lm_head|output)\b")),
    ("experts", re.compile(r"exps|experts|shexp")),
    ("attention", re.compile(r"attn|attention")),
    ("feed-forward", re.compile(r"mlp|ffn|feed_forward|block_sparse_moe")),
)
INTEGERS = re.compile(r"[IU]\d+|u?int\d+|BOOL|bool")  # parts of quantized weights: they have no bits per weight
MOST_TWIGS = 80
TEMPLATE_LINES = 6
FUNCTIONS = "mistralrs."


def sections(inspection: Inspection, *, terminal: bool) -> list[Section]:
    """`terminal`: draw the tree's branches and shorten sums; else only indent."""
    found = [_facts(inspection), _tree(inspection.tensors, guides=terminal), _sizes(inspection.tensors)]
    if inspection.graphs:
        found += [_graphs(inspection), _operators(inspection.graphs), _functions(inspection.graphs)]
        found += [_ports("Inputs", [graph.inputs for graph in inspection.graphs])]
        found += [_ports("Outputs", [graph.outputs for graph in inspection.graphs])]
    found += [_template(inspection.chat_template), _files(inspection, terminal=terminal)]
    return [section for section in found if section.rows]


def _facts(inspection: Inspection) -> Section:
    rows = [(key.replace("_", " "), _said(value)) for key, value in inspection.facts.items() if value is not None]
    return Section(f"{inspection.kind} {inspection.path}", rows)


def _said(value: Fact) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _tree(tensors: Sequence[TensorFacts], *, guides: bool) -> Section:
    found = list(twigs(tree(tensors)))
    rows = [_twig(each, guides=guides) for each in found[:MOST_TWIGS]]
    note = f"... and {len(found) - MOST_TWIGS} lines more: --json has every tensor" if len(found) > MOST_TWIGS else ""
    return Section("Tensors", rows, ("name", "format", "shape", "number", "size"), frozenset({3, 4}), note)


def _twig(twig: Twig, *, guides: bool) -> Row:
    label = f"{_indent(twig.last, guides=guides)}{twig.name.removesuffix('.weight')}"
    if twig.tensor is None:
        return label, "", "", "", size_text(twig.num_bytes)
    return label, twig.tensor.type, _shape(twig.tensor.shape), str(twig.number), size_text(twig.num_bytes)


def _indent(last: tuple[bool, ...], *, guides: bool) -> str:
    if not guides:
        return "  " * (len(last) - 1)
    stems = "".join("   " if is_last else "│  " for is_last in last[1:-1])
    return stems + ("" if len(last) == 1 else "└─ " if last[-1] else "├─ ")


def _shape(shape: Iterable[int | str]) -> str:
    return "x".join(map(str, shape))


def part(name: str) -> str:
    return next((label for label, pattern in PARTS if pattern.search(name)), "other")


def _sizes(tensors: Sequence[TensorFacts]) -> Section:
    weights = [tensor for tensor in tensors if tensor.type]  # not the constants of a graph
    groups: dict[tuple[str, str], list[TensorFacts]] = {}
    for tensor in weights:
        groups.setdefault((part(tensor.name), tensor.type), []).append(tensor)
    ordered = sorted(groups.items(), key=lambda group: -_bytes(group[1]))
    rows = [(label, kind, *_amounts(found)) for (label, kind), found in ordered]
    total = [("all", "", *_amounts(weights))] if weights else []
    head = ("part", "format", "tensors", "weights", "size", "bits per weight")
    return Section("Sizes", [*rows, *total], head, frozenset({2, 3, 4, 5}))


def _amounts(tensors: Sequence[TensorFacts]) -> tuple[str, str, str, str]:
    num_weights, num_bytes = sum(prod(each.shape) for each in tensors), _bytes(tensors)
    is_countable = num_weights and not any(INTEGERS.fullmatch(each.type) for each in tensors)
    bits = f"{8 * num_bytes / num_weights:.2f}" if is_countable else ""
    return str(len(tensors)), f"{num_weights:,}", size_text(num_bytes), bits


def _bytes(tensors: Iterable[TensorFacts]) -> int:
    return sum(each.num_bytes for each in tensors)


def _graphs(inspection: Inspection) -> Section:
    sizes = {file.name: file.size for file in inspection.files}
    rows = [
        (mark, graph.file, *map(str, _counts(graph)), size_text(sizes.get(graph.file, 0)))
        for mark, graph in zip(ascii_uppercase, inspection.graphs, strict=False)
    ]
    return Section("Graphs", rows, ("", "file", "nodes", "inputs", "outputs", "size"), frozenset({2, 3, 4, 5}))


def _counts(graph: GraphFacts) -> tuple[int, int, int]:
    return sum(graph.operators.values()), len(graph.inputs), len(graph.outputs)


def _operators(graphs: Sequence[GraphFacts]) -> Section:
    """A column for each graph."""
    total: dict[str, int] = {}
    for graph in graphs:
        for name, number in graph.operators.items():
            total[name] = total.get(name, 0) + number
    names = sorted(total, key=lambda name: -total[name])
    rows = [(name, *(str(graph.operators.get(name, "")) for graph in graphs)) for name in names]
    head = ("operator", *(ascii_uppercase[: len(graphs)] if len(graphs) > 1 else ("nodes",)))
    return Section("Operators", rows, head, frozenset(range(1, len(graphs) + 1)))


def _functions(graphs: Sequence[GraphFacts]) -> Section:
    """Those of all graphs: the same name is the same function."""
    found: Mapping[str, Mapping[str, int]] = {
        name: calls for graph in graphs for name, calls in graph.functions.items()
    }
    rows = [(name, ", ".join(f"{n} {each}" for each, n in calls.items())) for name, calls in sorted(found.items())]
    return Section("Functions", rows, ("each", "expands to"))


def _ports(title: str, graphs: Sequence[Sequence[PortFacts]]) -> Section:
    """Ports of several layers share a line, and so do those of several graphs, whose letters stand behind."""
    where: dict[tuple[str, str, str], str] = {}
    for mark, ports in zip(ascii_uppercase, graphs, strict=False):
        for port in folded(ports):
            where[port] = where.get(port, "") + mark
    several = len(graphs) > 1
    rows = [(*port, marks) if several else port for port, marks in where.items()]
    return Section(title, rows, ("name", "type", "shape", "in") if several else ("name", "type", "shape"))


def folded(ports: Iterable[PortFacts]) -> list[tuple[str, str, str]]:
    """Name, type and shape; names that differ in one number, wherever it stands in them, are one."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for name, kind, shape in ports:
        numbers = set(re.findall(r"\d+", name))
        is_layer, name = len(numbers) == 1, _short_name(name)
        pattern = re.sub(r"\d+", "*", name) if is_layer else name
        found = groups.setdefault((pattern, kind, f"({', '.join(map(str, shape))})"), [])
        found.extend(map(int, numbers if is_layer else ()))
    return [
        (name.replace("*", ranges(found)) if found else name, kind, shape)
        for (name, kind, shape), found in groups.items()
    ]


def _short_name(name: str) -> str:
    """What adapters change together has the names of all of it: the later ones without what they share."""
    first, *others = name.split("+")
    folder = first[: first.rfind(".") + 1]
    return "+".join([first, *(each.removeprefix(folder) for each in others)])


def _template(text: str | None) -> Section:
    lines = (text or "").strip().splitlines()
    more = f"... and {len(lines) - TEMPLATE_LINES} lines more" if len(lines) > TEMPLATE_LINES else ""
    return Section("Chat template", [(_short(line),) for line in lines[:TEMPLATE_LINES]], note=more)


def _short(line: str, most: int = 300) -> str:
    return line if len(line) <= most else f"{line[:most]} ..."


def _files(inspection: Inspection, *, terminal: bool) -> Section:
    rows = [row for file in inspection.files for row in _file(file, terminal=terminal)]
    return Section("Files", rows, ("name", "size", "sha256"), frozenset({1}))


def _file(file: FileFacts, *, terminal: bool) -> Iterator[Row]:
    sha256 = file.sha256 or ""
    yield file.name, size_text(file.size), f"{sha256[:16]}..." if sha256 and terminal else sha256
    if file.problem is not None:
        yield (f"  {file.problem}",)
