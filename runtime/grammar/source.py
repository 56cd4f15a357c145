"""From each form of grammar to llguidance's; compiles nothing."""

from __future__ import annotations

import re

import orjson
from llguidance.gbnf_to_lark import gbnf_to_lark

from mistralrs_onnx.runtime.errors import RequestError

from . import lark
from .spec import X_GUIDANCE, GrammarSpec
from .yacc import yacc_to_lark
from .yacc_source import YaccError

# Enough for any layout a person would choose; without an end a model that begins with spaces may never stop.
JSON_SPACE = r"[ \t\n\r]{1,40}"
ANY_OBJECT = b'{"type":"object"}'
MAX_REASON = 300
# The converter looks through all rules once per rule, in Python.
MAX_GBNF_BYTES = 32 * 1024
MAX_GBNF_RULES = 256
GBNF_CODE = re.compile(r"\\\\|\\u([0-9a-fA-F]{4})|\\U([0-9a-fA-F]{8})")


def to_llguidance(spec: GrammarSpec) -> str:
    """What LLMatcher takes. Raises RequestError (invalid_grammar)."""
    match spec.kind:
        case "regex":
            return _regex(spec.text)
        case "choice":
            return _regex("|".join(map(lark.quoted_regex, orjson.loads(spec.text))))
        case "json_schema":
            return _json(orjson.loads(spec.text))
        case "json_object":
            return _json(orjson.loads(ANY_OBJECT))
        case "gbnf":
            return _lark(_from_gbnf(spec), spec)
        case "yacc":
            return _lark(_from_yacc(spec), spec)
        case "lark":
            return _lark(spec.text, spec)


def invalid(spec: GrammarSpec, reason: str) -> RequestError:
    message = f"{spec.param} is no {spec.kind} that can be used: {_short(reason)}"
    return RequestError(message, code="invalid_grammar", param=spec.param)


def _short(reason: str) -> str:
    """llguidance draws regular expressions and adds where it was in its own code: the first words say what is wrong."""
    reason = reason.split("<backtrace>")[0].replace("<non-verbose/>", "").strip()
    if found := re.search(r"regex parse error:.*?^error: ([^\n]*)", reason, re.DOTALL | re.MULTILINE):
        return f"{reason.split(':', 1)[0]}: {found.group(1)}"[:MAX_REASON]
    return reason.splitlines()[0][:MAX_REASON] if reason else "llguidance gives no reason"


def _json(schema: dict[str, object]) -> str:
    options = {X_GUIDANCE: {"whitespace_pattern": JSON_SPACE}}
    return orjson.dumps({"grammars": [{"json_schema": schema | options}]}).decode()


def _regex(pattern: str) -> str:
    return _wrapped(f"start: {lark.regex(pattern)}")


def _lark(text: str, spec: GrammarSpec) -> str:
    if (reason := lark.refused_part(text)) is not None:
        raise invalid(spec, reason)
    return _wrapped(text)


def _wrapped(text: str) -> str:
    """As JSON, so that text which begins with a brace is not taken for llguidance's own form."""
    return orjson.dumps({"grammars": [{"lark_grammar": text}]}).decode()


def _from_yacc(spec: GrammarSpec) -> str:
    try:
        return yacc_to_lark(spec.text)
    except YaccError as error:
        raise invalid(spec, str(error)) from None


def _from_gbnf(spec: GrammarSpec) -> str:
    num_bytes, num_rules = len(spec.text.encode()), spec.text.count("::=")
    if num_bytes > MAX_GBNF_BYTES or num_rules > MAX_GBNF_RULES:
        limits = f"{MAX_GBNF_BYTES} bytes and {MAX_GBNF_RULES} rules"
        raise invalid(spec, f"at most {limits} are allowed, got {num_bytes} and {num_rules}")
    try:
        return gbnf_to_lark(GBNF_CODE.sub(_character, spec.text))
    except Exception as error:  # the converter raises bare exceptions and stumbles over depth and ends
        raise invalid(spec, str(error) or type(error).__name__) from None


def _character(match: re.Match[str]) -> str:
    """\\u0041 as what it means: llguidance's converter writes it with fewer digits, which is no escape any more."""
    code = match.group(1) or match.group(2)
    if code is None:
        return match.group()
    number = int(code, 16)
    if number < 128:
        return f"\\x{number:02x}"
    return chr(number) if number < 0x110000 and not 0xD800 <= number < 0xE000 else match.group()
