"""POST /v1/chat/completions: messages in, the assistant's message out."""

from __future__ import annotations

from .jobs import JSON, Job, Prompt, Shape
from .model import Model
from .schemas import ChatRequest
from .selection import served


def chat_job(body: ChatRequest, model: Model) -> Job:
    """Raises RequestError for what the model or its chat template cannot do."""
    who = served(body, model)
    limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    params = body.sampling_params(limit, model.defaults)
    prompt = Prompt(model.encode_chat([message.for_template() for message in body.messages]))
    return Job(CHAT, (prompt,), params, body.n or 1, bool(body.stream), body.include_usage, body.cache_scope, who)


def _choice(index: int, text: str, finish_reason: str) -> JSON:
    message = {"role": "assistant", "content": text, "refusal": None}
    return {"index": index, "message": message, "logprobs": None, "finish_reason": finish_reason}


def _chunk(index: int, delta: JSON, finish_reason: str | None = None) -> JSON:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


CHAT = Shape(
    id_prefix="chatcmpl-",
    object="chat.completion",
    chunk_object="chat.completion.chunk",
    choice=_choice,
    delta=lambda index, text: _chunk(index, {"content": text}),
    opening=lambda index: _chunk(index, {"role": "assistant", "content": ""}),
    ending=lambda index, finish_reason: _chunk(index, {}, finish_reason),
)
