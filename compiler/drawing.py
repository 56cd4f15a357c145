"""All graphs of a package: the portable one, and one to serve for each way of serving and each type of the cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

import onnx_ir as ir

from mistralrs_onnx.graphs.caches import DTYPES, DenseCache, PackedCache
from mistralrs_onnx.graphs.contract import (
    CUDA_KV_DTYPE,
    PORTABLE_GRAPH,
    ROPE_MARGIN,
    ROW_MULTIPLE,
    CudaRecord,
    KVDtype,
    LoraGroup,
)
from mistralrs_onnx.graphs.decoder import Decoder, decoder
from mistralrs_onnx.graphs.emit import Adapting, Drawing, Emit
from mistralrs_onnx.graphs.lora import Overridable, Recorded, Routed
from mistralrs_onnx.graphs.moe import MoE
from mistralrs_onnx.graphs.uniform import UniformCache, slot_copies
from mistralrs_onnx.graphs.weights import WeightFile, Weights
from mistralrs_onnx.graphs.xlora import Scaled, WithXLora, XLora

ENGINES: dict[KVDtype, str] = {"float32": "engine.onnx", "float16": "engine-kv-float16.onnx"}
LORA_ENGINES: dict[KVDtype, str] = {"float32": "engine-lora.onnx", "float16": "engine-lora-kv-float16.onnx"}
XLORA_ENGINES: dict[KVDtype, str] = {"float32": "engine-xlora.onnx", "float16": "engine-xlora-kv-float16.onnx"}
CUDA = CudaRecord("engine-cuda.onnx", "slots-cuda.onnx")


class Drawn(NamedTuple):
    """Graphs by file name, and the linears that adapters can adapt."""

    models: Mapping[str, ir.Model]
    lora: tuple[LoraGroup, ...]


def draw(
    spec: Decoder,
    weights: Weights,
    file: WeightFile,
    drawing: Drawing,
    xlora: XLora | None = None,
    overridable: frozenset[str] = frozenset(),
) -> Drawn:
    """All graphs over one weight file. `overridable`: linears of the portable graph that hosts may adapt."""
    recorded = Recorded()
    models = {PORTABLE_GRAPH: _draw_portable(spec, weights, file, drawing, recorded)}
    if overridable:
        open_groups = [group for group in recorded.groups if not overridable.isdisjoint(group.linears)]
        models[PORTABLE_GRAPH] = _draw_portable(spec, weights, file, drawing, Overridable(open_groups))
    for dtype, name in ENGINES.items():
        models[name] = _draw_engine(spec, weights, file, drawing, dtype)
        models[LORA_ENGINES[dtype]] = _draw_engine(spec, weights, file, drawing, dtype, recorded.groups)
        if xlora is not None:
            models[XLORA_ENGINES[dtype]] = _draw_xlora(spec, WithXLora(weights, xlora), file, drawing, dtype, xlora)
    if xlora is None:
        models[CUDA.engine] = _draw_cuda(spec, weights, file, drawing)
        models[CUDA.slots] = slot_copies(spec.kv.num_layers, DTYPES[CUDA_KV_DTYPE])
    return Drawn(models, recorded.groups)


def _draw_portable(spec: Decoder, weights: Weights, file: WeightFile, drawing: Drawing, adapting: Adapting) -> ir.Model:
    emit = Emit("model", weights, file, drawing)
    cache = DenseCache(emit, spec.kv, spec.context_length)
    emit.adapting = adapting
    cache.finish(decoder(emit, spec, cache).logits, spec.vocab_size)
    return emit.finish()


def _draw_engine(
    spec: Decoder,
    weights: Weights,
    file: WeightFile,
    drawing: Drawing,
    dtype: KVDtype,
    lora: tuple[LoraGroup, ...] | None = None,
) -> ir.Model:
    """`lora`: the linears that adapters of the graph may adapt; None draws a graph that takes none."""
    emit = Emit("engine", weights, file, drawing)
    cache = _serving_cache(emit, spec, dtype)
    emit.adapting = None if lora is None else Routed(emit, lora)
    cache.finish(decoder(emit, spec, cache).logits, spec.vocab_size)
    return emit.finish()


def _draw_cuda(spec: Decoder, weights: Weights, file: WeightFile, drawing: Drawing) -> ir.Model:
    """No row is held against another there, so experts see as many as there are."""
    emit = Emit("engine", weights, file, replace(drawing, half=True, row_multiple=1))
    cache = UniformCache(emit, spec.kv, CUDA_KV_DTYPE, spec.context_length + ROPE_MARGIN)
    cache.finish(decoder(emit, spec, cache).logits, spec.vocab_size)
    return emit.finish()


def _draw_xlora(
    spec: Decoder, weights: Weights, file: WeightFile, drawing: Drawing, dtype: KVDtype, xlora: XLora
) -> ir.Model:
    emit = Emit("engine", weights, file, drawing)
    cache = _serving_cache(emit, spec, dtype)
    emit.adapting = scaled = Scaled(emit, xlora)
    logits, hidden = decoder(emit, spec, cache)
    scaled.finish(emit, hidden)
    cache.finish(logits, spec.vocab_size)
    return emit.finish()


def _serving_cache(emit: Emit, spec: Decoder, dtype: KVDtype) -> PackedCache:
    cache = PackedCache(emit, spec.kv, dtype, spec.context_length + ROPE_MARGIN, grouped=spec.grouped_decode)
    if any(isinstance(layer.mlp, MoE) for layer in spec.layers):
        emit.row_multiple = emit.input(ROW_MULTIPLE, ir.DataType.INT64, [1])
    return cache
