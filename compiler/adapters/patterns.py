"""Which modules the regular expressions of an adapter's config mean; hostile ones are refused, not run."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from mistralrs_onnx.compiler.errors import CompileError

MAX_LENGTH = 16_384
# Matching a name of n letters takes up to n^repeats steps.
MAX_REPEATS = 4

_TOKEN = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{\d*(?:,\d*)?\}|.", re.DOTALL)
_REPEAT = re.compile(r"[*+]|\{.+\}")
_UNUSUAL = re.compile(r"\(\?(?![:=!]|<[=!]|P<)|\\[1-9]")  # flags, comments, references to groups


@cache
def checked(pattern: str, key: str) -> re.Pattern[str]:
    """Raises CompileError, which names the config key, for what is no regular expression or may run for ever."""
    if len(pattern) > MAX_LENGTH:
        raise CompileError(f"{key} must have at most {MAX_LENGTH} letters, got {len(pattern)}")
    try:
        found = re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise CompileError(f"{key} must be a regular expression, got {pattern[:80]!r}: {error}") from error
    if _UNUSUAL.search(pattern) or not _is_quick(pattern):
        raise CompileError(
            f"{key} {pattern[:80]!r} may take for ever to match: name the modules in a list, or write it without"
            " repeats of what has repeats or choices in it, references to groups and flags, and with at most"
            f" {MAX_REPEATS} repeats"
        )
    return found


@cache
def _at_end(pattern: str, key: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({checked(pattern, key).pattern})$")


def key_of(patterns: Iterable[str], module: str, key: str) -> str | None:
    """The first pattern that means a module: all of its name, or all that follows one of its dots (PEFT's rule)."""
    return next((pattern for pattern in patterns if _at_end(pattern, key).match(module)), None)


def _is_quick(pattern: str) -> bool:
    """Whether no repeated group holds a repeat or a choice, and each alternative has few repeats."""
    inside = [0]  # repeats and choices in each open group
    closed = repeats = 0
    for token in _TOKEN.findall(pattern):
        before, closed = closed, 0
        if token == "(":
            inside.append(0)
        elif token == ")":
            closed = inside.pop()
            inside[-1] += closed
        elif token == "|":
            inside[-1] += 1
            repeats = repeats if len(inside) > 1 else 0
        elif _REPEAT.fullmatch(token):
            inside[-1] += 1
            repeats += 1
            if before or repeats > MAX_REPEATS:
                return False
    return True
