"""What compiling a checkpoint would do, without doing it."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from mistralrs_onnx.graphs.decoder import Decoder
from mistralrs_onnx.graphs.weights import Weights, row_bytes
from mistralrs_onnx.graphs.xlora import WithXLora

from .canonical import CanonicalWeights
from .checkpoint import Checkpoint
from .compile import CompileOptions, plan
from .estimate import Estimate, Role, TensorPlan, estimate

TABLE = "model.embed_tokens.weight"


def dry_run(checkpoint: Checkpoint, options: CompileOptions, available: int) -> Estimate:
    """`available`: bytes of memory that a server may take. Raises CompileError as compiling does."""
    spec, weights, xlora = plan(checkpoint, options)
    tensors = list(_tensors(spec, checkpoint.weights, weights))
    if xlora is None:
        return estimate(spec, tensors, available)
    tensors += [_added(name, values.shape) for name, values in WithXLora(weights, xlora.drawn).own.items()]
    return estimate(spec, tensors, available, num_caches=2)  # of either pass


def _tensors(spec: Decoder, stored: CanonicalWeights, weights: Weights) -> Iterator[TensorPlan]:
    for name, shape in spec.shapes().items():
        if len(shape) == 1:
            yield TensorPlan(name, stored.type(name), "F32", shape, 4 * prod(shape), 4 * prod(shape))
            continue
        before, after = stored.matrix(name), weights.matrix(name)
        num_in, num_out = (shape[0] * row_bytes(matrix) for matrix in (before, after))
        yield TensorPlan(name, before.format, after.format, shape, num_in, num_out, _role(spec, name))


def _added(name: str, shape: tuple[int, ...]) -> TensorPlan:
    return TensorPlan(name, "F32", "F32", shape, 4 * prod(shape), 4 * prod(shape))


def _role(spec: Decoder, name: str) -> Role:
    if name != TABLE:
        return "matmul"
    return "both" if spec.tied else "gather"
