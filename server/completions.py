"""POST /v1/completions: prompts in, their continuations out."""

from __future__ import annotations

from functools import partial

from mistralrs_onnx.bad_words import word_tokens

from .jobs import JSON, Job, Prompt, Shape
from .logprobs import PromptWriter, TextLogprobs
from .model import Model
from .schemas import CompletionRequest
from .selection import served
from .truncation import kept

DEFAULT_MAX_TOKENS = 16  # as OpenAI's; a bare prompt has no natural end


def completion_job(body: CompletionRequest, model: Model) -> Job:
    """Raises RequestError for what the model cannot do."""
    who = served(body, model)
    limit = DEFAULT_MAX_TOKENS if body.max_tokens is None else body.max_tokens
    is_silent = bool(body.echo) and limit == 0
    params = body.sampling_params(1 if is_silent else limit, model.defaults, word_tokens(body.bad_words or (), model))
    prompts = tuple(_prompt(prompt, params.max_tokens, body, model) for prompt in body.prompt)
    spec, scored = body.spec(), body.prompt_logprobs
    is_scored = body.num_logprobs is not None
    return Job(
        TEXT,
        prompts,
        params,
        body.n or 1,
        bool(body.stream),
        body.include_usage,
        body.cache_scope,
        who,
        None if spec is None else model.grammar(spec),
        best_of=body.best_of or 0,
        writer=partial(TextLogprobs, model.token_bytes) if is_scored else None,
        scores_prompt=is_scored and bool(body.echo),
        is_silent=is_silent,
        prompt_writer=None if scored is None else PromptWriter(model.token_bytes, scored),
    )


def _prompt(prompt: str | list[int], max_tokens: int | None, body: CompletionRequest, model: Model) -> Prompt:
    token_ids = model.encode(prompt) if isinstance(prompt, str) else prompt
    read = kept(token_ids, max_tokens, body, model)
    if not body.echo:
        return Prompt(read)
    if isinstance(prompt, str) and len(read) == len(token_ids):
        return Prompt(read, prompt)
    return Prompt(read, model.tokenizer.decode(read, skip_special_tokens=False))


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
