"""POST /v1/completions: prompts in, their continuations out."""

from __future__ import annotations

from .jobs import JSON, Job, Prompt, Shape
from .model import Model
from .schemas import CompletionRequest, unsupported
from .selection import served

DEFAULT_MAX_TOKENS = 16  # as OpenAI's; a bare prompt has no natural end


def completion_job(body: CompletionRequest, model: Model) -> Job:
    """Raises RequestError for what the model cannot do."""
    who = served(body, model)
    n = body.n or 1
    if body.best_of not in (None, n):
        raise unsupported("best_of")
    limit = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    params = body.sampling_params(limit, model.defaults)
    prompts = tuple(_prompt(prompt, bool(body.echo), model) for prompt in body.prompt)
    return Job(TEXT, prompts, params, n, bool(body.stream), body.include_usage, body.cache_scope, who)


def _prompt(prompt: str | list[int], echo: bool, model: Model) -> Prompt:
    if isinstance(prompt, str):
        return Prompt(model.encode(prompt), prompt if echo else "")
    return Prompt(prompt, model.tokenizer.decode(prompt, skip_special_tokens=False) if echo else "")


def _choice(index: int, text: str, finish_reason: str | None = None) -> JSON:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}


TEXT = Shape(
    id_prefix="cmpl-",
    object="text_completion",
    chunk_object="text_completion",
    choice=_choice,
    delta=_choice,
    chunk=None,
    opening=None,
    ending=lambda index, finish_reason: _choice(index, "", finish_reason),
)
