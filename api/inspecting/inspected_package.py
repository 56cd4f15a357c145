"""What the manifest of a package and its graphs say; weights are read only to compute sha256 sums."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from pathlib import Path

from mistralrs_onnx.graphs.contract import CHAT_TEMPLATE, MANIFEST, PORTABLE_GRAPH, Manifest
from mistralrs_onnx.graphs.weights import DENSE
from mistralrs_onnx.ops.formats import find_format, is_packed
from mistralrs_onnx.runtime.errors import PackageError
from mistralrs_onnx.runtime.package import read_manifest

from .graph_outline import read_outline
from .inspected_graph import graph_facts
from .inspection import Fact, FileFacts, Inspection, TensorFacts
from .package_files import Hashing, check_files


def inspect_package(folder: Path, *, verify: bool, hashing: Hashing) -> Inspection:
    """Damaged files are among its problems. Raises PackageError where there is no manifest to hold them against."""
    manifest = read_manifest(folder)
    files = [
        FileFacts(*state, is_compared=verify) for state in check_files(folder, manifest, verify=verify, hashing=hashing)
    ]
    sound = {file.name for file in files if file.problem is None}
    return Inspection(
        "package",
        str(folder),
        dict(_facts(manifest)),
        tuple(_tensors(manifest)),
        tuple(graph_facts(name, read_outline(folder / name)) for name in _graphs(manifest) if name in sound),
        tuple(files),
        (folder / CHAT_TEMPLATE).read_text(encoding="utf-8", errors="replace") if CHAT_TEMPLATE in sound else None,
    )


def _facts(manifest: Manifest) -> Iterator[tuple[str, Fact]]:
    kv = manifest.kv
    yield "name", manifest.name
    yield "architecture", manifest.architecture
    yield "compiled_by", manifest.compiler
    yield "context", manifest.context_length
    yield "vocabulary", manifest.vocab_size
    yield "layers", kv.num_layers
    yield "keys_and_values", f"{kv.num_heads} heads of {kv.head_size}"
    yield "token_bytes_float32", kv.token_bytes(4)
    yield "token_bytes_float16", kv.token_bytes(2)
    yield "bos_token", manifest.bos_token_id
    yield "eos_tokens", manifest.eos_token_ids
    yield "activations", manifest.accuracy
    yield "invariant", manifest.invariant
    yield "adaptable_linears", sum(len(group.linears) for group in manifest.lora)
    yield "adapters", tuple(_adapters(manifest)) or None
    if manifest.xlora is not None:
        yield "xlora", f"{manifest.xlora.num_sets} sets of scalings of {', '.join(manifest.xlora.adapters)}"


def _adapters(manifest: Manifest) -> Iterator[str]:
    for name, record in manifest.adapters.items():
        parent = f" of {record.parent}" if record.parent else ""
        yield f"{name}{parent}{', active' if name in manifest.active_adapters else ''}"


def _tensors(manifest: Manifest) -> Iterator[TensorFacts]:
    for name, record in manifest.tensors.items():
        yield TensorFacts(name, record.type, record.shape, stored_bytes(record.type, record.shape))


def stored_bytes(kind: str, shape: tuple[int, ...]) -> int:
    """Raises PackageError for a type that is unknown here."""
    if kind in DENSE:
        return prod(shape) * DENSE[kind].itemsize
    if not is_packed(kind):
        raise PackageError(f"{MANIFEST} has a weight of type {kind!r}, which this version does not know")
    return prod(shape) // find_format(kind).block_size * find_format(kind).type_size


def _graphs(manifest: Manifest) -> list[str]:
    """The portable one, then those that serve."""
    xlora = {} if manifest.xlora is None else manifest.xlora.engines
    cuda = [] if manifest.cuda is None else [manifest.cuda.engine, manifest.cuda.slots]
    serving = [*manifest.engines.values(), *manifest.lora_engines.values(), *xlora.values(), *cuda]
    return list(dict.fromkeys([PORTABLE_GRAPH, *serving]))
