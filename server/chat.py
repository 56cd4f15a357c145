"""POST /v1/chat/completions: messages in, the assistant's message out."""

from __future__ import annotations

from functools import partial

from mistralrs_onnx.bad_words import word_tokens
from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.grammar.spec import GrammarSpec

from . import reasoning
from .jobs import JSON, Job, Prompt, Shape
from .logprobs import ChatLogprobs, PromptWriter
from .model import Model
from .replies import Reading
from .schemas import ChatRequest
from .selection import served
from .tool_calls import formats
from .tool_calls.grammar import tool_grammar
from .tool_calls.tools import check_choice
from .truncation import kept

TAIL = 16  # tokens of a prompt, enough for a tag and white space behind it


def chat_job(body: ChatRequest, model: Model) -> Job:
    """Raises RequestError for what the model or its chat template cannot do."""
    who = served(body, model)
    check_choice(body.tool_choice, body.tools)
    limit = body.max_tokens if body.max_completion_tokens is None else body.max_completion_tokens
    params = body.sampling_params(limit, model.defaults, word_tokens(body.bad_words or (), model))
    messages = [message.for_template() for message in body.messages]
    tools = [tool.source for tool in body.shown_tools] or None
    token_ids = model.encode_chat(messages, tools, body.chat_template_kwargs)
    prompt = Prompt(kept(token_ids, limit, body, model))
    spec, scored = body.spec(), body.prompt_logprobs
    reading = _reading(body, model, prompt, may_think=spec is None)
    if reading is not None and body.tool_choice.is_forced:
        if spec is not None:
            message = f"tool_choice and {spec.param} both constrain the output: leave one of them out"
            raise RequestError(message, code="conflicting_parameters", param=spec.param)
        spec = _calls(body, reading)
    return Job(
        CHAT,
        (prompt,),
        params,
        body.n or 1,
        bool(body.stream),
        body.include_usage,
        body.cache_scope,
        who,
        None if spec is None else model.grammar(spec),
        reading,
        best_of=body.best_of or 0,
        writer=None if body.num_logprobs is None else partial(ChatLogprobs, model.token_bytes),
        prompt_writer=None if scored is None else PromptWriter(model.token_bytes, scored),
    )


def _reading(body: ChatRequest, model: Model, prompt: Prompt, *, may_think: bool) -> Reading | None:
    """As the chat template spells thoughts and calls; of the latter only where there are tools to call.

    Not `may_think`: a grammar of the request begins at once, and all that is written is the answer.
    """
    tags = reasoning.detect(model.template_source) if may_think else None
    format_ = formats.detect(model.template_source) if body.shown_tools else None
    if tags is None and format_ is None:
        return None
    tail = model.tokenizer.decode(prompt.token_ids[-TAIL:], skip_special_tokens=False)
    is_thinking = tags is not None and reasoning.is_open(tail, tags)
    return Reading(tags, is_thinking, format_, body.parallel_tool_calls is not False)


def _calls(body: ChatRequest, reading: Reading) -> GrammarSpec:
    """What allows only calls, of a tool that is named only one, after thoughts if the model has any."""
    assert reading.format is not None
    text = tool_grammar(
        body.tools,
        body.tool_choice,
        reading.format,
        parallel=reading.parallel and body.tool_choice.name is None,
        thoughts=reading.tags,
        is_open=reading.is_thinking,
    )
    return GrammarSpec("lark", text, "tools")


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
    chunk=_chunk,
    opening=lambda index: _chunk(index, {"role": "assistant", "content": ""}),
    ending=lambda index, finish_reason: _chunk(index, {}, finish_reason),
)
