"""The bodies of requests: which fields there are, what they may hold, and what is refused for want of support."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError

from mistralrs_onnx.runtime.adapter_registry import MAX_PARTS
from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.sampling import MAX_LOGPROBS

from .messages import Message
from .sampling_fields import Constraints, Sampling
from .tool_calls.tools import Choice, Tool, as_choice, as_tools

logger = logging.getLogger(__name__)

# Accepted without effect, as OpenAI's clients send them and the answer does not depend on them.
IGNORED = frozenset(
    ["user", "metadata", "store", "service_tier", "parallel_tool_calls", "prompt_cache_key", "safety_identifier"]
)
# What we do not do yet, each with the values that ask for nothing (null always does).
UNSUPPORTED: Mapping[str, tuple[Any, ...]] = {
    "audio": (),
    "chat_template": (),
    "chat_template_kwargs": ({},),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "modalities": (["text"],),
    "prediction": (),
    "reasoning_effort": (),
    "return_token_ids": (False,),
    "suffix": ("",),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": (),
    "web_search_options": (),
}
INSTEAD = {"functions": "use tools", "function_call": "use tool_choice"}
MAX_ANSWERS = 16  # to a prompt
MAX_WEIGHT = 1000.0  # of an adapter
MAX_WARNED = 1000  # keys; a client that invents them must not fill memory or the log


def as_prompts(value: Any) -> list[str | list[int]]:
    """The four forms of a prompt (text, texts, token ids, lists of token ids) as a list of prompts."""
    if isinstance(value, str) or (isinstance(value, list) and value and not isinstance(value[0], str | list)):
        value = [value]
    if not isinstance(value, list) or not value or not all(_is_prompt(prompt) for prompt in value):
        raise ValueError("a prompt is a string, a list of token ids, or a list of either, and not empty")
    if len(value) > 64:
        raise ValueError(f"at most 64 prompts, got {len(value)}")
    return value


def _is_prompt(prompt: Any) -> bool:
    if isinstance(prompt, str):
        return True
    return isinstance(prompt, list) and bool(prompt) and all(type(i) is int and 0 <= i < 2**31 for i in prompt)


def _none_if_false(value: Any) -> Any:
    return None if value is False else value


def _not_zero(value: int) -> int:
    if value == 0:
        raise ValueError("Input should be -1 (as many tokens as fit) or at least 1")
    return value


def as_messages(value: Any) -> Any:
    """A text alone is what the user says, as in mistral.rs."""
    return [{"role": "user", "content": value}] if isinstance(value, str) else value


def as_part(value: Any) -> Any:
    """An adapter's name alone is the whole of it."""
    return {"name": value} if isinstance(value, str) else value


OptionalCount = Annotated[Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | None, BeforeValidator(_none_if_false)]


class AdapterPart(BaseModel):
    """An adapter, and what its updates are multiplied by."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    name: str = Field(min_length=1, max_length=256)
    weight: float = Field(1.0, ge=-MAX_WEIGHT, le=MAX_WEIGHT)


class StreamOptions(BaseModel):
    """How a stream ends."""

    model_config = ConfigDict(strict=True)

    include_usage: bool | None = None


class Completion(Sampling, Constraints):
    """What both endpoints take; None stands for the default everywhere."""

    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = Field(None, ge=1, le=MAX_ANSWERS)
    best_of: int | None = Field(None, ge=1, le=MAX_ANSWERS)
    max_tokens: int | None = None
    adapters: list[Annotated[AdapterPart, BeforeValidator(as_part)]] | None = Field(None, max_length=MAX_PARTS)
    cache_salt: str | None = Field(None, max_length=128)
    prompt_logprobs: OptionalCount = None  # alternatives to tell of with each token of the prompt
    truncate_sequence: bool | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1), AfterValidator(_not_zero)] | None = None

    @property
    def cache_scope(self) -> tuple[str, ...]:
        """Requests share cached prompts only with those of the same scope."""
        return (self.cache_salt,) if self.cache_salt else ()

    @property
    def include_usage(self) -> bool:
        return bool(self.stream_options and self.stream_options.include_usage)


class ChatRequest(Completion):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], BeforeValidator(as_messages), Field(min_length=1, max_length=2048)]
    max_completion_tokens: int | None = None
    tools: Annotated[tuple[Tool, ...], PlainValidator(as_tools)] = ()
    tool_choice: Annotated[Choice, PlainValidator(as_choice)] = Choice()
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: dict[str, Any] | None = Field(None, max_length=64)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)

    @property
    def num_logprobs(self) -> int | None:
        """Raises RequestError for alternatives to what is not told."""
        if self.logprobs:
            return self.top_logprobs or 0
        if self.top_logprobs:
            raise RequestError("top_logprobs needs logprobs: set that to true", param="top_logprobs")
        return None

    @property
    def shown_tools(self) -> tuple[Tool, ...]:
        """Those that the model is told of."""
        return () if self.tool_choice.mode == "none" else self.tools


class CompletionRequest(Completion):
    """POST /v1/completions."""

    prompt: Annotated[list[str | list[int]], PlainValidator(as_prompts)]
    echo: bool | None = None
    logprobs: OptionalCount = None

    @property
    def num_logprobs(self) -> int | None:
        return self.logprobs


class ReIsqRequest(BaseModel):
    """POST /re_isq."""

    model_config = ConfigDict(extra="allow", strict=True)

    ggml_type: str = Field(min_length=1, max_length=32)


class ActivateRequest(BaseModel):
    """POST /activate_adapters."""

    model_config = ConfigDict(extra="allow", strict=True)

    adapter_names: list[Annotated[str, Field(min_length=1, max_length=256)]] = Field(max_length=MAX_PARTS)


class LoadRequest(BaseModel):
    """POST /v1/load_lora_adapter, as vLLM has it."""

    model_config = ConfigDict(extra="allow", strict=True)

    lora_name: str = Field(min_length=1, max_length=256)
    lora_path: str = Field(min_length=1, max_length=4096)
    load_inplace: bool | None = None


class UnloadRequest(BaseModel):
    """POST /v1/unload_lora_adapter, as vLLM has it."""

    model_config = ConfigDict(extra="allow", strict=True)

    lora_name: str = Field(min_length=1, max_length=256)


Body = TypeVar("Body", bound=BaseModel)


class Reader:
    """Reads bodies, and warns once of each field that nobody here knows."""

    def __init__(self) -> None:
        self._warned: set[str] = set()

    def read(self, schema: type[Body], raw: bytes) -> Body:
        """Raises RequestError 400 with `param` naming the field at fault."""
        try:
            parsed = orjson.loads(raw)
        except orjson.JSONDecodeError as error:
            raise RequestError(f"The body is not valid JSON: {error}.", code="invalid_json") from None
        if not isinstance(parsed, dict):
            raise RequestError(f"The body must be a JSON object, got {type(parsed).__name__}.", code="invalid_type")
        try:
            body = schema.model_validate(parsed)
        except ValidationError as error:
            raise _validation_error(error) from None
        self._check_extras(body.model_extra or {})
        return body

    def _check_extras(self, extras: Mapping[str, Any]) -> None:
        for key, value in extras.items():
            if key in UNSUPPORTED:
                if value is not None and not _is_neutral(value, UNSUPPORTED[key]):
                    raise unsupported(key)
            elif key not in IGNORED and key not in self._warned and len(self._warned) < MAX_WARNED:
                self._warned.add(key)
                logger.warning("ignoring the unknown request field %.64r", key)


def unsupported(param: str) -> RequestError:
    message = f"{param} is not supported by this server: {INSTEAD.get(param, 'leave it out')}."
    return RequestError(message, code="unsupported_parameter", param=param)


def _is_neutral(value: Any, neutral: tuple[Any, ...]) -> bool:
    return any(type(value) is type(other) and value == other for other in neutral)


def _validation_error(error: ValidationError) -> RequestError:
    first = error.errors(include_url=False, include_context=False)[0]
    param = ".".join(str(part) for part in first["loc"]) or None
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    text = first["msg"].removeprefix("Value error, ")
    code = "missing_field" if first["type"] == "missing" else "invalid_value"
    return RequestError(f"{param}: {text}{_got(first['input'])}{more}", code=code, param=param)


def _got(value: Any) -> str:
    if isinstance(value, str | int | float | bool):
        return f", got {value!r:.64}"
    return ""
