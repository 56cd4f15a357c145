"""The forms that prompts may have, and their tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, NotRequired, TypedDict, cast

from mistralrs_onnx.runtime.errors import RequestError

from .bad_words import Encoder

FORMS = "a prompt is a text, a list of token ids, or a dict with prompt or prompt_token_ids"
KEYS = {"prompt", "prompt_token_ids", "cache_salt"}


class TextPrompt(TypedDict):
    """A text. `cache_salt`: only requests with the same share what was read of their prompts."""

    prompt: str
    cache_salt: NotRequired[str]


class TokensPrompt(TypedDict):
    """Token ids, and the text that they stand for, which is told with the answer."""

    prompt_token_ids: Sequence[int]
    prompt: NotRequired[str]
    cache_salt: NotRequired[str]


Prompt = str | Sequence[int] | TextPrompt | TokensPrompt
Prompts = Prompt | Sequence[Prompt]


class Encoded(NamedTuple):
    """`text`: None where only tokens were given. `cache_scope`: requests share prefixes in the same."""

    text: str | None
    token_ids: Sequence[int]
    cache_scope: tuple[str, ...] = ()


def prompt_list(prompts: Prompts) -> list[Prompt]:
    """One prompt as a list of it. Raises RequestError for what is none."""
    if not isinstance(prompts, str | Mapping | Sequence):
        raise RequestError(f"{FORMS}, got {prompts!r:.64}", param="prompt")
    is_one = isinstance(prompts, str | Mapping) or (len(prompts) > 0 and _are_ids(prompts))
    return cast(list[Prompt], [prompts] if is_one else list(prompts))


def encoded(prompt: Prompt, encoder: Encoder) -> Encoded:
    """Raises RequestError for what is none of the forms."""
    if isinstance(prompt, Mapping):
        return _of_dict(prompt, encoder)
    return _of_text(prompt, encoder) if isinstance(prompt, str) else Encoded(None, _checked_ids(prompt))


def _of_dict(prompt: Mapping[str, Any], encoder: Encoder) -> Encoded:
    if unknown := sorted(map(str, prompt.keys() - KEYS)):
        message = f"{FORMS}, and may have cache_salt, got {unknown[0]!r:.64} in it"
        raise RequestError(message, code="unsupported_parameter", param="prompt")
    text, token_ids, salt = prompt.get("prompt"), prompt.get("prompt_token_ids"), prompt.get("cache_salt")
    if not isinstance(salt, str | None):
        raise RequestError(f"cache_salt is a text, got {salt!r:.64}", param="cache_salt")
    scope = (salt,) if salt else ()
    if token_ids is None:
        return _of_text(text, encoder)._replace(cache_scope=scope)
    return Encoded(text, _checked_ids(token_ids), scope)


def _of_text(text: Any, encoder: Encoder) -> Encoded:
    if not isinstance(text, str):
        raise RequestError(f"{FORMS}, got {text!r:.64}", param="prompt")
    return Encoded(text, encoder.encode(text))


def _checked_ids(token_ids: Any) -> list[int]:
    if isinstance(token_ids, str) or not isinstance(token_ids, Sequence) or not _are_ids(token_ids):
        raise RequestError(f"{FORMS}, got {token_ids!r:.64}", param="prompt")
    return list(token_ids)


def _are_ids(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)
