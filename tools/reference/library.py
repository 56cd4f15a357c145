"""What `import mistralrs_onnx` offers: signatures and what they say of themselves."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from enum import Enum
from types import MappingProxyType

import mistralrs_onnx

from .text import block

ABOVE = """# Python

```python
from mistralrs_onnx import LLM, Runner, Which
```

Names are imported when they are first used. Everything may be used from several threads; nothing handles signals or
configures logging. Mistakes raise `CompileError` (a checkpoint), `PackageError` (a package) and `RequestError` (a
request), all of which are kinds of `ValueError` where the API of mistral.rs has that.
"""
FIRST = (
    "LLM",
    "AsyncLLM",
    "SamplingParams",
    "Runner",
    "Which",
    "ChatCompletionRequest",
    "CompletionRequest",
    "compile",
)
WIDE = 100


def page() -> str:
    names = [*FIRST, *(name for name in mistralrs_onnx.__all__ if name not in FIRST)]
    return ABOVE + "".join(_section(name) for name in names)


def _section(name: str) -> str:
    found = vars(mistralrs_onnx).get(name) or mistralrs_onnx.__getattr__(name)
    return f"\n## {name}\n\n" + "".join(_described(name, found))


def _described(name: str, found: object) -> Iterator[str]:
    if isinstance(found, type) and issubclass(found, Enum):
        yield _doc(found) + "\n" + ", ".join(f"`{each.name}`" for each in found) + "\n"
        return
    if not isinstance(found, type):
        yield block(signature(name, found), "python") + "\n" + _doc(found)
        return
    inner = {each: value for each, value in vars(found).items() if isinstance(value, type) and not each.startswith("_")}
    if inner:
        yield _doc(found)
        yield from (f"\n{block(signature(f'{name}.{each}', value), 'python')}" for each, value in inner.items())
        return
    yield block(signature(name, found), "python") + "\n" + _doc(found)
    yield from _methods(found)


def _methods(found: type) -> Iterator[str]:
    for name, value in vars(found).items():
        if not name.startswith("_") and inspect.isfunction(value):
            yield f"\n{block(signature(f'.{name}', value), 'python')}"
            if value.__doc__:
                yield "\n" + _doc(value)


def signature(name: str, found: object) -> str:
    """On one line where it fits, else a parameter a line."""
    try:
        written = inspect.signature(found)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return name
    parameters = list(_parameters([each for each in written.parameters.values() if each.name != "self"]))
    returned = written.return_annotation
    ending = "" if returned in (inspect.Signature.empty, "None", None) else f" -> {_annotation(returned)}"
    line = f"{name}({', '.join(parameters)}){ending}"
    if len(line) <= WIDE or not parameters:
        return line
    return f"{name}(\n" + "".join(f"    {each},\n" for each in parameters) + f"){ending}"


def _parameters(parameters: list[inspect.Parameter]) -> Iterator[str]:
    """With the star behind which they have to be named."""
    has_star = False
    for each in parameters:
        if each.kind is inspect.Parameter.KEYWORD_ONLY and not has_star:
            has_star = True
            yield "*"
        annotation = "" if each.annotation is inspect.Parameter.empty else f": {_annotation(each.annotation)}"
        default = "" if each.default is inspect.Parameter.empty else f" = {_value(each.default)}"
        yield each.name + annotation + default


def _annotation(annotation: object) -> str:
    """Without names of modules."""
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return re.sub(r"(?:\w+\.)+(\w)", r"\1", text)


def _value(value: object) -> str:
    """As it would be written; what is no literal by its name."""
    if isinstance(value, MappingProxyType):
        return "{}" if not value else repr(dict(value))
    if value is None or isinstance(value, bool | int | float | str | tuple | list | dict | frozenset):
        return str(value) if isinstance(value, Enum) else repr(value)
    return str(vars(value).get("__name__", "...")) if inspect.isfunction(value) else "..."


def _doc(found: object) -> str:
    return f"{inspect.getdoc(found) or ''}\n"
