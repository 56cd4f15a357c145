"""Compares quantizations of a checkpoint by size, memory, room for context and quality, and recommends one.

Reads headers only; every figure is an estimate of what a compile and a server would come to.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import prod, sqrt
from typing import Literal, NamedTuple, get_args

from mistralrs_onnx.compiler.checkpoint import Checkpoint
from mistralrs_onnx.compiler.compile import CompileOptions
from mistralrs_onnx.compiler.dry_run import dry_run
from mistralrs_onnx.compiler.estimate import Estimate, TensorPlan, folded_bytes
from mistralrs_onnx.compiler.isq_map import parse_type
from mistralrs_onnx.graphs.contract import KVDtype
from mistralrs_onnx.graphs.moe import MoE
from mistralrs_onnx.ops.formats import is_packed

from .weight_errors import type_error

Profile = Literal["quality", "balanced", "fast"]
Status = Literal["fits", "short", "no"]
PROFILES: tuple[Profile, ...] = get_args(Profile)

AS_IT_IS = "as it is"
CHOICES = ("Q8_0", "Q6K", "Q5K", "Q4K", "Q4_0", "Q3K", "Q2K", "int8-32", "int4-32")
CONTEXT = 4096  # tokens that a sequence is to have room for, unless said otherwise
OURS = 0.9  # of the memory; the rest is left to the system
SLOWER = 1.5  # how much more than the fewest bytes a balanced choice may read for a token


@dataclass(frozen=True, slots=True)
class Wish:
    """What a server is to hold: `max_seqs` sequences at once, of `max_model_len` tokens each, in `memory` bytes.

    `max_model_len`: None asks for 4096, or the model's whole context where that is shorter.
    """

    memory: int
    max_seqs: int = 1
    max_model_len: int | None = None
    kv_dtype: KVDtype = "float32"


class Candidate(NamedTuple):
    """What a choice comes to. Sizes in bytes.

    `isq`: what --isq is given, None for nothing. `size`: of the weight file. `weights_memory`: of a server without keys
    and values. `needed`: with them, for what was wished. `room`: tokens of each sequence in nine tenths of the memory,
    at most what a request may have. `error`: relative, of weights that change. `read`: of weights for a token.
    `status`: whether there is room for what is wanted, for less, or for nothing. `types`: that matrices get.
    """

    name: str
    isq: str | None
    size: int
    weights_memory: int
    needed: int
    room: int
    error: float
    read: int
    status: Status
    types: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Tuning:
    """`context_length`: of the model. `limit`: the most tokens of a request; `wanted`: how many each sequence is to
    have room for.

    `quantized`: types that the checkpoint has already and therefore keeps, empty if it is dense or requantized.
    """

    name: str
    architecture: str
    num_weights: int
    context_length: int
    limit: int
    wanted: int
    token_bytes: int
    quantized: tuple[str, ...]
    candidates: tuple[Candidate, ...]

    def recommended(self, profile: Profile) -> Candidate | None:
        """The best of the choices that suit; None where none can be loaded at all.

        Those with room for what is wanted suit; where there are none, those with most room. Of them, `quality` takes
        the smallest error, `fast` the fewest bytes to read for a token, and `balanced` the smallest error among those
        that read at most 1.5 times the fewest. Equals are told apart by the other figure.
        """
        suiting = _suiting(self.candidates)
        if not suiting:
            return None
        if profile == "fast":
            return min(suiting, key=lambda each: (each.read, each.error))
        if profile == "balanced":
            most = SLOWER * min(each.read for each in suiting)
            suiting = [each for each in suiting if each.read <= most]
        return min(suiting, key=lambda each: (each.error, each.read))


def tune(checkpoint: Checkpoint, options: CompileOptions, wish: Wish) -> Tuning:
    """`options`: of all choices; a type that they ask for is one more choice. Raises CompileError."""
    kept = dry_run(checkpoint, replace(options, isq=replace(options.isq, type=None)), wish.memory)
    quantized = () if options.isq.requantize else _quantized(kept)
    limit = min(wish.max_model_len or kept.context_length, kept.context_length)
    wanted = min(wish.max_model_len or CONTEXT, limit)
    shares = expert_shares(checkpoint)
    estimates = {None: kept} | ({} if quantized else dict(_estimates(checkpoint, options, wish)))
    return Tuning(
        name=checkpoint.name,
        architecture=checkpoint.arch.name,
        num_weights=sum(prod(plan.shape) for plan in kept.tensors),
        context_length=kept.context_length,
        limit=limit,
        wanted=wanted,
        token_bytes=_token_bytes(kept, wish),
        quantized=quantized,
        candidates=tuple(
            _candidate(isq, each, wish, wanted=wanted, limit=limit, shares=shares) for isq, each in estimates.items()
        ),
    )


def expert_shares(checkpoint: Checkpoint) -> dict[str, float]:
    """By the beginning of its experts' names, how much of a layer's experts a token reads."""
    spec = checkpoint.arch.decoder(checkpoint.config, checkpoint.weights.__contains__)
    return {
        f"model.layers.{i}.": layer.mlp.experts_per_token / layer.mlp.num_experts
        for i, layer in enumerate(spec.layers)
        if isinstance(layer.mlp, MoE)
    }


def _estimates(checkpoint: Checkpoint, options: CompileOptions, wish: Wish) -> Iterator[tuple[str, Estimate]]:
    for isq, type_name in _choices(options.isq.type).items():
        yield isq, dry_run(checkpoint, replace(options, isq=replace(options.isq, type=type_name)), wish.memory)


def _choices(asked: str | None) -> dict[str, str]:
    """Types by what --isq calls them."""
    types = {isq: parse_type(isq) for isq in CHOICES}
    return types if asked is None or asked in types.values() else {asked: asked} | types


def _candidate(
    isq: str | None, found: Estimate, wish: Wish, *, wanted: int, limit: int, shares: Mapping[str, float]
) -> Candidate:
    per_token = wish.max_seqs * _token_bytes(found, wish)
    left = max(int(OURS * wish.memory) - found.runtime_memory, 0)
    room = min(left // per_token, limit)
    matrices = [plan for plan in found.tensors if len(plan.shape) > 1]
    return Candidate(
        name=isq or AS_IT_IS,
        isq=isq,
        size=sum(plan.bytes_out for plan in matrices),
        weights_memory=found.runtime_memory,
        needed=found.runtime_memory + wanted * per_token,
        room=room,
        error=_error(matrices),
        read=sum(_read(plan, shares) for plan in matrices),
        status="fits" if room >= wanted else "short" if room else "no",
        types=tuple(sorted({plan.type_out for plan in matrices})),
    )


def _token_bytes(found: Estimate, wish: Wish) -> int:
    return found.kv_float16 if wish.kv_dtype == "float16" else found.kv_float32


def _error(matrices: Iterable[TensorPlan]) -> float:
    """Root of the mean square over all weights; those that stay as they are have none."""
    parts = [
        (prod(plan.shape), 0.0 if plan.type_in == plan.type_out else type_error(plan.type_out)) for plan in matrices
    ]
    return sqrt(sum(count * error**2 for count, error in parts) / sum(count for count, _ in parts))


def _read(plan: TensorPlan, shares: Mapping[str, float]) -> int:
    """Bytes of a matrix that a token multiplies with; float kernels read float32."""
    if plan.role == "gather":
        return 0
    count = prod(plan.shape)
    whole = folded_bytes(plan.type_out, count) if is_packed(plan.type_out) else 4 * count
    if ".experts." not in plan.name:
        return whole
    return int(whole * next((share for layer, share in shares.items() if plan.name.startswith(layer)), 1.0))


def _quantized(found: Estimate) -> tuple[str, ...]:
    return tuple(sorted({plan.type_in for plan in found.tensors if is_packed(plan.type_in)}))


def _suiting(candidates: Iterable[Candidate]) -> list[Candidate]:
    found = list(candidates)
    if suiting := [each for each in found if each.status == "fits"]:
        return suiting
    most = max(each.room for each in found)
    return [each for each in found if each.room == most > 0]
