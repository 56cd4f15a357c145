"""Messages in, prompt text out: the chat template of a model, rendered as if its author meant harm."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Never

from jinja2 import TemplateError

from .errors import PackageError, RequestError
from .template_meter import METER, LimitError, Meter
from .template_sandbox import Sandbox

RESERVED = frozenset(("messages", "tools", "documents", "add_generation_prompt", "tokenize", "chat_template"))
MAX_EXTRA = 2048  # characters of one extra value
MAX_DATE_FORMAT = 256
Clock = Callable[[], datetime]


class ChatTemplate:
    """Renders as `apply_chat_template` of transformers does, within limits that no real template reaches.

    Templates see only the tokens that are not None. Raises PackageError for a template that cannot be compiled.
    """

    def __init__(
        self,
        source: str,
        *,
        bos_token: str | None = None,
        eos_token: str | None = None,
        unk_token: str | None = None,
        pad_token: str | None = None,
        clock: Clock = datetime.now,
    ) -> None:
        self.source = source
        tokens = {"bos_token": bos_token, "eos_token": eos_token, "unk_token": unk_token, "pad_token": pad_token}
        self._tokens = {name: text for name, text in tokens.items() if text is not None}
        sandbox = Sandbox({"raise_exception": _raise_exception, "strftime_now": _strftime_now(clock)})
        try:
            self._template = sandbox.load(source)
        except Exception as error:  # odd sources fail in the parser, in the compiler of jinja2 and in that of Python
            raise PackageError(f"the chat template cannot be compiled: {_reason(error)}") from error

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        extra: Mapping[str, Any] | None = None,
    ) -> str:
        """The prompt. `extra`: further variables of the template. Raises RequestError with code template_error."""
        values: dict[str, Any] = {**self._tokens, **_checked(extra or {}, self._tokens)}
        values |= {"messages": messages, "tools": tools, "documents": None}
        token = METER.set(Meter(values))
        try:
            return self._template.render(values | {"add_generation_prompt": add_generation_prompt})
        except Exception as error:  # whatever a template can be made to do wrong is the fault of this request alone
            raise RequestError(f"the chat template failed: {_reason(error)}", code="template_error") from error
        finally:
            METER.reset(token)


def _checked(extra: Mapping[str, Any], taken: Mapping[str, str]) -> Mapping[str, Any]:
    for name, value in extra.items():
        if name in RESERVED or name in taken or not name.isidentifier():
            raise RequestError(f"{name!r} cannot be set for the chat template", param="chat_template_kwargs")
        if not isinstance(value, bool | int | float | str | None) or len(str(value)) > MAX_EXTRA:
            raise RequestError(
                f"{name} must be a number, true, false, null or text of at most {MAX_EXTRA} characters",
                param="chat_template_kwargs",
            )
    return extra


def _reason(error: Exception) -> str:
    """What a template says of itself; of other errors only the kind, because their texts can quote anything."""
    if isinstance(error, TemplateError):
        return (error.message or type(error).__name__)[:500]
    return type(error).__name__


def _raise_exception(message: str) -> Never:
    raise TemplateError(str(message))


def _strftime_now(clock: Clock) -> Callable[[str], str]:
    def strftime_now(date_format: str) -> str:
        if len(date_format) > MAX_DATE_FORMAT or re.search(r"%[^a-zA-Z%]*\d", date_format):
            raise LimitError(f"dates take at most {MAX_DATE_FORMAT} characters and no widths, got {date_format[:80]!r}")
        return clock().strftime(date_format)

    return strftime_now
