"""Jinja2 for templates that nobody has read: they cannot reach Python, run on, or grow without bound.

The parsed template is changed before it is compiled, so that every loop round and macro call counts as a step and every
list, dict and joined text is weighed. Filters and methods are those whose cost can be told from their arguments.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from functools import wraps
from types import BuiltinMethodType, MethodType
from typing import Any

from jinja2 import Environment, Template, nodes, pass_context, pass_environment
from jinja2.ext import Extension
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from .template_meter import METER, LimitError

MAX_SOURCE = 1 << 20  # characters of a template
MAX_BITS = 4096  # of an integer
MAX_WIDTH = 999  # of a formatted field
MAX_INDENT = 32


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


METHODS: dict[type, frozenset[str]] = {
    str: _words("""
        capitalize casefold count endswith find format index isalnum isalpha isascii isdecimal isdigit islower isnumeric
        isspace istitle isupper join lower lstrip partition removeprefix removesuffix replace rfind rindex rpartition
        rsplit rstrip split splitlines startswith strip swapcase title upper"""),
    dict: _words("copy get items keys values"),
    list: _words("copy count index"),
    tuple: _words("count index"),
    bytes: _words(""),
    bytearray: _words(""),
    int: _words(""),
    float: _words("is_integer"),
}

# Beside these: format, indent, join, replace and tojson, written below.
TEXT_FILTERS = _words("capitalize e escape float int lower safe string title trim truncate upper wordcount")
OTHER_FILTERS = _words("""
    abs count d default dictsort first groupby items last length list map max min reject rejectattr reverse round
    select selectattr sort unique""")

WIDE = re.compile(r"\*|\d{4}")
INDIRECT = re.compile(r"\{[^}]*[.\[{]")


class Sandbox(ImmutableSandboxedEnvironment):
    """An environment whose templates render under the meter that METER holds."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self, global_functions: dict[str, Callable[..., object]]) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # would compute constant expressions while compiling, unmetered
            finalize=_written,
            extensions=["jinja2.ext.loopcontrols", Generation],
        )
        self.filters = _filters()
        known = {name: self.globals[name] for name in ("range", "dict", "cycler", "joiner")}
        self.globals = known | {"namespace": OpaqueNamespace} | global_functions

    def load(self, source: str) -> Template:
        """Raises TemplateError, and what compiling odd source raises: RecursionError, SyntaxError, ValueError, ..."""
        if len(source) > MAX_SOURCE:
            raise LimitError(f"it has {len(source)} characters, at most {MAX_SOURCE} are read")
        tree = Metering().visit(self.parse(source))
        return Template.from_code(self, self.compile(tree), self.globals)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        for kind, names in METHODS.items():
            if isinstance(obj, kind):
                return attr in names
        return super().is_safe_attribute(obj, attr, value)

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        METER.get().step()
        if isinstance(obj, BuiltinMethodType | MethodType) and isinstance(obj.__self__, str):
            args = _pay_for_method(obj, *args)
        return self.admit(super().call(context, obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        METER.get().step()
        _pay_for_operator(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def bounded(*args: Any, **kwargs: Any) -> str:
            _pay_for_format(value.__self__, "{", [args, kwargs])
            return wrapped(*args, **kwargs)

        return bounded

    def step(self) -> bool:
        METER.get().step()
        return True

    def enter(self, text_size: int) -> str:
        """Counts a loop round or a call whose body has this much literal text."""
        METER.get().step()
        METER.get().grow(text_size)
        return ""

    def admit(self, value: Any) -> Any:
        """A value as it is, unless it would be too large when written out or compared."""
        METER.get().weigh(value)
        return value

    def joined(self, *values: object) -> str:
        METER.get().pay(values)
        return "".join(map(str, values))


@pass_context
def _written(context: Context, value: object) -> str:
    METER.get().step()
    METER.get().pay(value)
    return str(value)


class OpaqueNamespace(Namespace):
    """A namespace that does not write out its content, which could hold itself many times over."""

    def __repr__(self) -> str:
        return "<namespace>"


class Generation(Extension):
    """`{% generation %}`: marks what the model wrote, for training; nothing when rendering."""

    tags = {"generation"}  # noqa: RUF012 - as declared

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body).set_lineno(lineno)


class Metering(NodeTransformer):
    """Puts the calls of the meter into a parsed template."""

    def visit_For(self, node: nodes.For) -> nodes.For:  # noqa: N802
        self.generic_visit(node)
        node.body.insert(0, _enter(node.body))
        if node.test is not None:
            node.test = nodes.And(_call("step", []), node.test, lineno=node.lineno)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Macro:  # noqa: N802
        self.generic_visit(node)
        node.body.insert(0, _enter(node.body))
        return node

    def visit_List(self, node: nodes.List) -> nodes.Expr:  # noqa: N802
        return self._admitted(node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Expr:  # noqa: N802
        return self._admitted(node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Expr:  # noqa: N802
        return self._admitted(node) if node.ctx == "load" else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:  # noqa: N802
        self.generic_visit(node)
        return _call("joined", node.nodes)

    def _admitted(self, node: nodes.Literal) -> nodes.Expr:
        self.generic_visit(node)
        return _call("admit", [node])


def _call(method: str, args: list[nodes.Expr]) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(method), args, [], None, None)


def _enter(body: list[nodes.Node]) -> nodes.Node:
    size = sum(len(data.data) for node in body for data in _literals(node))
    return nodes.ExprStmt(_call("enter", [nodes.Const(size)]))


def _literals(node: nodes.Node) -> Iterable[nodes.TemplateData]:
    return [node] if isinstance(node, nodes.TemplateData) else node.find_all(nodes.TemplateData)


def _pay_for_method(method: BuiltinMethodType | MethodType, *args: Any) -> tuple[Any, ...]:
    """Pays for the result of a method of a string; returns the arguments, an iterator among them made a list."""
    meter, text = METER.get(), str(method.__self__)
    if method.__name__ == "join" and args:
        parts = list(args[0])
        meter.grow(meter.weigh(parts) + len(text) * len(parts))
        return (parts, *args[1:])
    if method.__name__ == "replace" and len(args) >= 2:
        meter.grow(_replaced_size(text, *args[:2]))
    meter.grow(len(text))
    return args


def _replaced_size(text: str, old: object, new: object) -> int:
    return len(text) + text.count(str(old)) * len(str(new))


def _pay_for_operator(operator: str, left: Any, right: Any) -> None:
    meter = METER.get()
    if operator == "%" and isinstance(left, str):
        _pay_for_format(left, "%", right)
    elif isinstance(left, int) and isinstance(right, int):
        _check_bits(operator, left, right)
    elif operator == "*":
        size, times = (right, left) if isinstance(left, int) else (left, right)
        meter.grow(meter.weigh(size) * max(times, 0) if isinstance(times, int) else 0)
    elif operator == "+":
        meter.grow(meter.weigh(left) + meter.weigh(right))


def _check_bits(operator: str, left: int, right: int) -> None:
    bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
    if operator in ("*", "**") and bits > MAX_BITS:
        raise LimitError(f"it computes an integer of more than {MAX_BITS} bits")


def _pay_for_format(template: str, mark: str, values: object) -> None:
    if WIDE.search(template) or (mark == "{" and INDIRECT.search(template)):
        raise LimitError(f"formatted fields take plain names and widths up to {MAX_WIDTH}, got {template[:80]!r}")
    meter = METER.get()
    meter.grow(len(template) + template.count(mark) * (MAX_WIDTH + meter.weigh(values)))


def _filters() -> dict[str, Callable[..., Any]]:
    text = {name: _metered(FILTERS[name], writes=True) for name in TEXT_FILTERS}
    other = {name: _metered(FILTERS[name], writes=False) for name in OTHER_FILTERS}
    ours: dict[str, Callable[..., Any]] = {
        "format": _format,
        "indent": _indent,
        "join": _join,
        "replace": _replace,
        "tojson": _tojson,
    }
    return text | other | {name: _metered(function, writes=True) for name, function in ours.items()}


def _metered(function: Callable[..., Any], *, writes: bool) -> Callable[..., Any]:
    """A filter that counts as a step, pays for what it writes out, and makes nothing too large."""

    @wraps(function)
    def metered(*args: Any, **kwargs: Any) -> Any:
        meter = METER.get()
        meter.step()
        if writes:
            meter.pay([args, kwargs])
        result = function(*args, **kwargs)
        meter.weigh(result)
        return result

    return metered


def _format(value: str, *args: Any, **kwargs: Any) -> str:
    _pay_for_format(str(value), "%", [args, kwargs])
    return str(value) % (kwargs or args)


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    if not isinstance(width, str):
        width = " " * min(int(width), MAX_INDENT)
    METER.get().grow((str(text).count("\n") + 2) * len(width))
    return str(FILTERS["indent"](str(text), width, first, blank))


@pass_environment
def _join(environment: Environment, values: Iterable[Any], separator: str = "", attribute: str | None = None) -> str:
    if attribute is not None:
        values = map(make_attrgetter(environment, attribute), values)
    parts = list(values)
    meter = METER.get()
    meter.grow(meter.weigh(parts) + len(parts) * len(str(separator)))
    return str(separator).join(map(str, parts))


def _replace(text: str, old: str, new: str, count: int = -1) -> str:
    METER.get().grow(_replaced_size(str(text), old, new))
    return str(text).replace(str(old), str(new), count)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Plain JSON, as templates are written for it: the filter of jinja2 itself escapes HTML."""
    if indent is not None and not 0 <= int(indent) <= MAX_INDENT:
        raise LimitError(f"JSON is indented by 0 to {MAX_INDENT}, got {indent!r}")
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    parts = []
    for part in encoder.iterencode(value):
        METER.get().grow(len(part))
        parts.append(part)
    return "".join(parts)
