"""One prompt, and how it is to be answered, ready for the engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from typing import NamedTuple

from mistralrs_onnx.runtime.adapter_registry import Part
from mistralrs_onnx.runtime.adapters import Adapter
from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.grammar.compiler import Grammar
from mistralrs_onnx.runtime.sampling import SamplingParams as Draw

from .model import Model
from .prompts import Encoded
from .sampling_params import SamplingParams

Adapters = str | Mapping[str, float] | None  # a name, or weights by name; None: those that are active


class Job(NamedTuple):
    """`draws`: of each answer. `adapter`: None is the model alone."""

    prompt: Encoded
    params: SamplingParams
    draws: Sequence[Draw]
    grammar: Grammar | None
    adapter: Adapter | None


def make_job(model: Model, prompt: Encoded, params: SamplingParams, adapter: Adapters) -> Job:
    """Compiles a grammar and combines adapters, which takes its time. Raises RequestError."""
    params, spec = copy(params), params.spec()  # its owner may change it
    if (num_kept := params.truncate_prompt_tokens or 0) > 0:
        prompt = prompt._replace(token_ids=prompt.token_ids[-num_kept:])
    if params.truncate_prompt_tokens != -1 and not model.truncate_sequence:
        params.max_tokens = _bounded(params.max_tokens, model.context_length - len(prompt.token_ids))
    grammar = None if spec is None else model.grammar(spec)
    return Job(prompt, params, params.draws(model, model.defaults), grammar, _select(model, adapter))


def _bounded(max_tokens: int | None, room: int) -> int | None:
    """As in vLLM, an answer may end where the context does; a prompt without room for any is the engine's to refuse."""
    return room if max_tokens is not None and 0 < room < max_tokens else max_tokens


def _select(model: Model, wanted: Adapters) -> Adapter | None:
    parts = [Part(wanted)] if isinstance(wanted, str) else None
    if isinstance(wanted, Mapping):
        parts = [Part(name, weight) for name, weight in wanted.items()]
    if model.adapters is not None:
        return model.adapters.select(parts)
    if not parts:
        return None
    if model.mixed_adapters:
        mixed = ", ".join(model.mixed_adapters)
        message = f"{model.name} mixes its own adapters ({mixed:.200}) for each token (X-LoRA): choose none"
        raise RequestError(message, code="unsupported", param="adapter")
    message = f"there is no adapter {parts[0].name!r:.128}: {model.name} was loaded without any, see its `adapters`"
    raise RequestError(message, status=404, code="adapter_not_found", param="adapter")
