"""Checkpoint in, package out."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import onnx_ir as ir

from mistralrs_onnx.graphs.contract import (
    LARGEST_GROUP,
    MANIFEST,
    ROPE_MARGIN,
    WEIGHTS,
    FileRecord,
    LoraGroup,
    Manifest,
    TensorRecord,
    XLoraRecord,
)
from mistralrs_onnx.graphs.decoder import Decoder
from mistralrs_onnx.graphs.emit import Drawing
from mistralrs_onnx.graphs.weights import DENSE, WeightFile, Weights
from mistralrs_onnx.ops.formats import find_format, row_multiple

from .adapters.files import AdapterFiles
from .adapters.merge import MERGE_DTYPES, Merged, ToMerge, read_updates
from .adapters.xlora import XLora, XLoraSource
from .checkpoint import Checkpoint, Reading, open_folder, open_ggml, open_gguf
from .dense import DenseAs
from .drawing import CUDA, ENGINES, LORA_ENGINES, XLORA_ENGINES, draw
from .errors import CompileError
from .host_configs import host_configs
from .isq import Isq, Requantized, make_plan
from .onnx_adapters import ToEmit
from .package import file_records, package_folder
from .packaged_adapters import write_adapters
from .progress import Progress, Report, quiet
from .tokenizer.vocabulary import SpecialIds

logger = logging.getLogger(__name__)

COMPILER = f"mistralrs-onnx {version('mistralrs-onnx')}"
DTYPES = {"auto": None, "f32": "F32", "f16": "F16", "bf16": "BF16"}


@dataclass(frozen=True, slots=True)
class CompileOptions:
    """`accuracy`: activations inside quantized matmuls become int8, or stay float32. `expand`: stock operators only.

    `dtype`: of dense weights, f32, f16 or bf16; auto keeps them as the checkpoint has them, which the CPU computes in
    float32 all the same. `isq`: what to quantize to. `reading`: what the user says of the checkpoint.
    `adapters`: merged into the weights before they are quantized. `merge_dtype`: f32, f16 or bf16, of what they change;
    None keeps its type. `xlora`: adapters that become part of the model, mixed by a classifier. `packaged`: adapters
    that the package carries, to be loaded beside the model, of which `active` are for requests that do not say.
    `emitted`: adapters that become files in ONNX Runtime's format, for hosts that apply them to the portable graph.
    """

    accuracy: str = "int8"
    expand: bool = False
    dtype: str = "auto"
    isq: Isq = field(default_factory=Isq)
    reading: Reading = field(default_factory=Reading)
    adapters: tuple[ToMerge, ...] = ()
    merge_dtype: str | None = None
    xlora: XLoraSource | None = None
    packaged: tuple[AdapterFiles, ...] = ()
    emitted: ToEmit | None = None
    active: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.accuracy not in ("int8", "float32"):
            raise CompileError(f"accuracy must be int8 or float32, got {self.accuracy!r}")
        if self.dtype not in DTYPES:
            raise CompileError(f"dtype must be one of {', '.join(DTYPES)}, got {self.dtype!r}")
        if self.merge_dtype is not None and self.merge_dtype not in MERGE_DTYPES:
            raise CompileError(f"merge dtype must be one of {', '.join(MERGE_DTYPES)}, got {self.merge_dtype!r}")


def compile_gguf(
    path: Path, out: Path, options: CompileOptions = CompileOptions(), *, force: bool = False, report: Report = quiet
) -> Path:
    """Compiles a GGUF file into the package folder `out` and returns it. Raises CompileError.

    `force` replaces an earlier package. Memory stays bounded: weights pass through a few megabytes at a time.
    """
    return compile_checkpoint(open_gguf(path, options.reading), out, options, force=force, report=report)


def compile_folder(
    folder: Path, out: Path, options: CompileOptions = CompileOptions(), *, force: bool = False, report: Report = quiet
) -> Path:
    """As `compile_gguf`, from a folder of safetensors, config.json and tokenizer."""
    return compile_checkpoint(open_folder(folder, options.reading), out, options, force=force, report=report)


def compile_ggml(
    path: Path, out: Path, options: CompileOptions = CompileOptions(), *, force: bool = False, report: Report = quiet
) -> Path:
    """As `compile_gguf`, from a llama file from before GGUF."""
    return compile_checkpoint(open_ggml(path, options.reading), out, options, force=force, report=report)


def compile_checkpoint(
    opening: AbstractContextManager[Checkpoint],
    out: Path,
    options: CompileOptions = CompileOptions(),
    *,
    force: bool = False,
    report: Report = quiet,
) -> Path:
    """As `compile_gguf`, from a checkpoint that is yet to be opened."""
    report(Progress("read", 0, 0))
    with opening as checkpoint, package_folder(out, force=force) as folder:
        _write(checkpoint, folder, options, report)
    return out


class Plan(NamedTuple):
    """What is to be drawn, and the weights in the types that they will have."""

    spec: Decoder
    weights: Weights
    xlora: XLora | None = None


def plan(checkpoint: Checkpoint, options: CompileOptions) -> Plan:
    """Raises CompileError."""
    spec = checkpoint.arch.decoder(checkpoint.config, checkpoint.weights.__contains__)
    _check_computable(spec)
    checkpoint.weights.check(spec.shapes())
    dtype = DTYPES[options.dtype]
    weights: Weights = checkpoint.weights if dtype is None else DenseAs(checkpoint.weights, dtype)
    if options.adapters:
        updates = read_updates(options.adapters, checkpoint.arch, spec.shapes())
        weights = Merged(weights, updates, MERGE_DTYPES.get(options.merge_dtype or ""), exact=checkpoint.weights)
    xlora = None if options.xlora is None else options.xlora.read(checkpoint.arch, spec.shapes())
    if options.isq == Isq():
        return Plan(spec, weights, xlora)
    choices = make_plan(options.isq, weights, spec.shapes())
    if choices.fallbacks:
        first = choices.fallbacks[0]
        logger.warning("%d matrices fell back, such as %s: %s", len(choices.fallbacks), first.name, first.reason)
    return Plan(spec, Requantized(weights, choices), xlora)


def _write(checkpoint: Checkpoint, folder: Path, options: CompileOptions, report: Report) -> None:
    spec, weights, xlora = plan(checkpoint, options)
    report(Progress("tokenizer", 0, 0))
    tokenizer, ids = checkpoint.tokenizer()
    configs = host_configs(checkpoint.config, spec, ids.bos, ids.eos, ids.pad, checkpoint.generation)
    for name, content in (tokenizer | configs).items():
        (folder / name).write_bytes(content)
    file = WeightFile(WEIGHTS)
    report(Progress("draw", 0, 0))
    records = tensor_records(spec, weights)
    drawing = _drawing(records, options)
    emitted = () if options.emitted is None else options.emitted.read(checkpoint.arch, spec.shapes())
    overridable = frozenset(linear for adapter in emitted for linear in adapter.updates)
    drawn = draw(spec, weights, file, drawing, None if xlora is None else xlora.drawn, overridable)
    for name, model in drawn.models.items():
        (folder / name).write_bytes(ir.to_proto(model).SerializeToString(deterministic=True))
    write_weights(file, folder / WEIGHTS, report)
    if options.emitted is not None:
        options.emitted.write(folder, emitted, drawn.lora)
    adapters = write_adapters(folder, options.packaged, checkpoint.arch, spec.shapes())
    report(Progress("hash", 0, 0))
    manifest = _manifest(checkpoint, spec, ids, options, drawing, records, drawn.lora, xlora, file_records(folder))
    manifest = replace(manifest, adapters=adapters, active_adapters=options.active)
    (folder / MANIFEST).write_text(manifest.to_json(), encoding="utf-8")


def tensor_records(spec: Decoder, weights: Weights) -> dict[str, TensorRecord]:
    """What each weight is kept as, by canonical name."""
    return {name: TensorRecord(_kept_as(weights, name, shape), shape) for name, shape in spec.shapes().items()}


def _kept_as(weights: Weights, name: str, shape: tuple[int, ...]) -> str:
    return weights.matrix(name).format if len(shape) == 2 else "F32"


def _drawing(records: Mapping[str, TensorRecord], options: CompileOptions) -> Drawing:
    return Drawing(
        float_activations=options.accuracy == "float32",
        expand=options.expand,
        row_multiple=2 if any(multiple == 2 for multiple in _row_multiples(records)) else 1,
    )


def _row_multiples(records: Mapping[str, TensorRecord]) -> Iterator[int]:
    for kind in {record.type for record in records.values() if len(record.shape) == 2} - set(DENSE):
        yield row_multiple(find_format(kind).bits, find_format(kind).nbits_block)


def _manifest(
    checkpoint: Checkpoint,
    spec: Decoder,
    ids: SpecialIds,
    options: CompileOptions,
    drawing: Drawing,
    records: Mapping[str, TensorRecord],
    lora: tuple[LoraGroup, ...],
    xlora: XLora | None,
    files: Mapping[str, FileRecord],
) -> Manifest:
    return Manifest(
        compiler=COMPILER,
        name=checkpoint.name,
        architecture=checkpoint.arch.name,
        vocab_size=spec.vocab_size,
        context_length=spec.context_length,
        rope_rows=spec.context_length + ROPE_MARGIN,
        rope_switch=spec.rope_switch,
        grouped_decode=spec.grouped_decode,
        kv=spec.kv,
        engines=ENGINES,
        lora_engines=LORA_ENGINES,
        lora=lora,
        xlora=None if xlora is None else _xlora_record(xlora),
        cuda=CUDA if xlora is None else None,
        accuracy=options.accuracy,
        row_multiple=drawing.row_multiple,
        invariant=_invariance(spec, options.accuracy),
        bos_token_id=ids.bos,
        eos_token_ids=ids.eos,
        tensors=records,
        files=files,
    )


def _xlora_record(xlora: XLora) -> XLoraRecord:
    names = tuple(adapter.name for adapter in xlora.adapters)
    return XLoraRecord(XLORA_ENGINES, names, xlora.classifier.num_layers, xlora.scaling_pass)


def _check_computable(spec: Decoder) -> None:
    for attention in {layer.attention for layer in spec.layers}:
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
    if any(layer.attention.softcap and layer.attention.window for layer in spec.layers):
        return "no, because soft caps of scores in a window depend on where it begins"
    return "yes"


def write_weights(file: WeightFile, path: Path, report: Report) -> None:
    total, done = file.source_bytes, 0
    with path.open("wb") as out:
        for num_bytes in file.write(out):
            done += num_bytes
            report(Progress("write", done, total))
