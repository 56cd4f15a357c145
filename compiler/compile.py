"""Checkpoint in, package out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import onnx_ir as ir

from mistralrs_onnx.graphs.caches import DenseCache, PackedCache
from mistralrs_onnx.graphs.contract import (
    LARGEST_GROUP,
    MANIFEST,
    PORTABLE_GRAPH,
    ROPE_MARGIN,
    WEIGHTS,
    FileRecord,
    KVDtype,
    Manifest,
    TensorRecord,
)
from mistralrs_onnx.graphs.decoder import Decoder, decoder
from mistralrs_onnx.graphs.emit import Drawing, Emit
from mistralrs_onnx.graphs.weights import WeightFile, Weights

from .archs import find_gguf
from .archs.arch import Arch
from .checkpoints.gguf import GGUF, read_gguf
from .errors import CompileError
from .gguf_model import GGUFWeights, read_config
from .host_configs import host_configs
from .package import file_records, package_folder
from .tokenizer.gguf import special_ids, tokenizer_files
from .tokenizer.vocabulary import SpecialIds

COMPILER = f"mistralrs-onnx {version('mistralrs-onnx')}"
ENGINES: dict[KVDtype, str] = {"float32": "engine.onnx", "float16": "engine-kv-float16.onnx"}


class Progress(NamedTuple):
    """`stage`: what is being done. `done`, `total`: bytes of the checkpoint that are through."""

    stage: str
    done: int
    total: int


Report = Callable[[Progress], None]


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """`accuracy`: activations inside quantized matmuls become int8, or stay float32. `expand`: stock operators only."""

    accuracy: str = "int8"
    expand: bool = False

    def __post_init__(self) -> None:
        if self.accuracy not in ("int8", "float32"):
            raise CompileError(f"accuracy must be int8 or float32, got {self.accuracy!r}")

    @property
    def drawing(self) -> Drawing:
        return Drawing(float_activations=self.accuracy == "float32", expand=self.expand)


def quiet(progress: Progress) -> None:
    """Reports nothing."""


def compile_gguf(
    path: Path, out: Path, options: CompileOptions = CompileOptions(), *, force: bool = False, report: Report = quiet
) -> Path:
    """Compiles a GGUF file into the package folder `out` and returns it. Raises CompileError.

    `force` replaces an earlier package. Memory stays bounded: weights pass through a few megabytes at a time.
    """
    with read_gguf(path) as gguf, package_folder(out, force=force) as folder:
        _compile(gguf, folder, options, report)
    return out


def _compile(gguf: GGUF, folder: Path, options: CompileOptions, report: Report) -> None:
    report(Progress("read", 0, 0))
    arch = find_gguf(gguf.metadata.string("general.architecture"))
    config = read_config(gguf, arch)
    weights = GGUFWeights(gguf, arch, config)
    spec = arch.decoder(config, weights)
    _check_computable(spec)
    weights.check(spec.shapes())
    ids = special_ids(gguf.metadata)
    report(Progress("tokenizer", 0, 0))
    texts = tokenizer_files(gguf.metadata) | host_configs(config, spec, ids.bos, ids.eos, ids.pad)
    for name, content in texts.items():
        (folder / name).write_bytes(content)
    file = WeightFile(WEIGHTS)
    report(Progress("draw", 0, 0))
    for name, model in draw(spec, weights, file, options.drawing).items():
        (folder / name).write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
    write_weights(file, folder / WEIGHTS, report)
    report(Progress("hash", 0, 0))
    manifest = _manifest(gguf, arch, spec, ids, options.accuracy, file_records(folder))
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")


def _manifest(
    gguf: GGUF, arch: Arch, spec: Decoder, ids: SpecialIds, accuracy: str, files: Mapping[str, FileRecord]
) -> Manifest:
    return Manifest(
        compiler=COMPILER,
        name=gguf.path.stem,
        architecture=arch.name,
        vocab_size=spec.vocab_size,
        context_length=spec.context_length,
        rope_rows=spec.context_length + ROPE_MARGIN,
        kv=spec.kv,
        engines=ENGINES,
        accuracy=accuracy,
        row_multiple=1,
        invariant=_invariance(spec, accuracy),
        bos_token_id=ids.bos,
        eos_token_ids=ids.eos,
        tensors={name: TensorRecord(tensor.type, tensor.shape) for name, tensor in gguf.tensors.items()},
        files=files,
    )


def _check_computable(spec: Decoder) -> None:
    for attention in {layer.attention for layer in spec.layers}:
        if attention.head_size % 16:
            raise CompileError(f"heads of {attention.head_size} elements are not supported yet, only multiples of 16")
        if attention.num_heads % attention.num_kv_heads:
            raise CompileError(f"{attention.num_heads} heads cannot share {attention.num_kv_heads} key and value heads")
        if attention.num_heads > LARGEST_GROUP * attention.num_kv_heads:
            group = attention.num_heads // attention.num_kv_heads
            raise CompileError(f"{group} heads share a key head, at most {LARGEST_GROUP} are supported")


def _invariance(spec: Decoder, accuracy: str) -> str:
    """Whether logits are the same bits in any batch, as measured with ONNX Runtime 1.32."""
    if accuracy != "int8":
        return "no, because float kernels sum in another order for one row"
    if spec.kv.head_size > 128:
        return f"no, because attention over heads of {spec.kv.head_size} elements depends on the number of rows"
    return "yes"


def draw(spec: Decoder, weights: Weights, file: WeightFile, drawing: Drawing) -> dict[str, ir.Model]:
    """All graphs of a package, by file name, over one weight file."""
    models = {PORTABLE_GRAPH: _draw_portable(spec, weights, file, drawing)}
    for dtype, name in ENGINES.items():
        models[name] = _draw_engine(spec, weights, file, drawing, dtype)
    return models


def _draw_portable(spec: Decoder, weights: Weights, file: WeightFile, drawing: Drawing) -> ir.Model:
    emit = Emit("model", weights, file, drawing)
    cache = DenseCache(emit, spec.kv, spec.context_length)
    cache.finish(decoder(emit, spec, cache), spec.vocab_size)
    return emit.finish()


def _draw_engine(spec: Decoder, weights: Weights, file: WeightFile, drawing: Drawing, dtype: KVDtype) -> ir.Model:
    emit = Emit("engine", weights, file, drawing)
    cache = PackedCache(emit, spec.kv, dtype, spec.context_length + ROPE_MARGIN)
    cache.finish(decoder(emit, spec, cache), spec.vocab_size)
    return emit.finish()


def write_weights(file: WeightFile, path: Path, report: Report) -> None:
    total, done = file.source_bytes, 0
    with path.open("wb") as out:
        for num_bytes in file.write(out):
            done += num_bytes
            report(Progress("write", done, total))
