"""The table of what mistral.rs has: each row is true of our code, each test is there, and no name is forgotten."""

from __future__ import annotations

import ast
import functools
import inspect
import runpy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args

import click
import pytest

from mistralrs_onnx import responses
from mistralrs_onnx.compiler.adapters import config, ordering, xlora_config
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.requests import ChatCompletionRequest, CompletionRequest
from mistralrs_onnx.runner import Runner
from mistralrs_onnx.runtime.core import FinishReason
from mistralrs_onnx.runtime.grammar import spec
from mistralrs_onnx.selector import select
from mistralrs_onnx.server.messages import Message
from mistralrs_onnx.server.schemas import IGNORED, ChatRequest
from mistralrs_onnx.server.schemas import CompletionRequest as TextRequest
from mistralrs_onnx.tools import bench, serve
from mistralrs_onnx.tools.reference import mission, routes, settings
from mistralrs_onnx.which import Architecture, VisionArchitecture, Which

TESTS = Path(__file__).parents[2]
ROWS = [(section, row) for section in mission.sections() for row in section.rows]


def options(command: click.Command, before: str = "") -> Iterator[set[str]]:
    for param in command.params:
        yield {before + spelling for spelling in param.opts}


def options_of_subcommands() -> Iterator[set[str]]:
    for name, command in serve.main.commands.items():
        yield from options(command, f"{name} ")


def each(names: Iterable[Any]) -> Callable[[], list[set[str]]]:
    found = [{str(name)} for name in names]
    return lambda: found


def arguments(kind: Any) -> list[str]:
    """That may be given by place, as all of mistral.rs may."""
    parameters = inspect.signature(kind).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is not parameter.KEYWORD_ONLY]


def known_keys(content: Mapping[str, Any]) -> list[set[str]]:
    """As they are told to who writes another."""
    with pytest.raises(CompileError) as caught:
        select(content)
    return [{key} for key in str(caught.value).partition("known: ")[2].split(", ")]


CHOICES = {name: kind for name, kind in vars(Which).items() if isinstance(kind, type)}
ANSWERS = {name: found for name, found in vars(responses).items() if is_dataclass(found)}
HAVE: Mapping[str, Callable[[], Any]] = {  # what there is of a kind; names of one thing in one set
    "subcommands": each(serve.main.commands),
    "options server": lambda: options(serve.main),
    "options of subcommands": options_of_subcommands,
    "options bench": lambda: options(bench.main),
    "selector": lambda: known_keys({"?": 1}),
    "selector model": lambda: known_keys({"model": {"?": 1}}),
    "selector speculative": lambda: known_keys({"model": {"model_id": "m"}, "speculative": {"?": 1}}),
    "routes": each(routes.ROUTES),
    "body ChatRequest": each(ChatRequest.model_fields),
    "body CompletionRequest": each({*TextRequest.model_fields, *IGNORED}),
    "body Message": each(Message.model_fields),
    "parts": each(["text"]),
    "grammars": each(spec.KINDS),
    "bodies": each(f"{route} {name}" for route, body in routes.BODIES.items() for name in body.model_fields),
    "reasons": each(get_args(FinishReason)),
    "signature Runner": each(arguments(Runner)),
    "methods Runner": each(vars(Runner)),
    "signature ChatCompletionRequest": each(arguments(ChatCompletionRequest)),
    "signature CompletionRequest": each(arguments(CompletionRequest)),
    "which": each(f"{name}.{argument}" for name, kind in CHOICES.items() for argument in arguments(kind)),
    "architectures": each(architecture.name for architecture in Architecture),
    "vision architectures": each(architecture.name for architecture in VisionArchitecture),
    "responses": each(f"{name}.{field.name}" for name, kind in ANSWERS.items() for field in fields(kind)),
    "ordering": each(ordering.KEYS),
    "xlora_config": each(xlora_config.READ | xlora_config.HARMLESS),
    "adapter_config": each(config.READ | config.HARMLESS),
    "variables": each(settings.OTHERS),
}
ELSEWHERE = ("answer chat", "answer completion", "answer chunk", "answer usage")  # tests/server/test_mission.py
WHOLE: Mapping[str, set[str]] = {  # of these all that we have is in the table, but for what is ours alone
    "subcommands": {"demo", "compiled"},
    "selector": set(),
    "selector model": {"tokenizer_json", "repeat_last_n", "revision", "kind"},  # of which two may stand in the file
    "selector speculative": set(),
    "signature Runner": set(),
    "signature ChatCompletionRequest": set(),
    "signature CompletionRequest": set(),
    "which": set(),
    "vision architectures": set(),
    "responses": {"ChatCompletionChunkResponse.usage"},
    "ordering": set(),
}


@functools.cache
def functions_of(path: Path) -> frozenset[str]:
    found = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    return frozenset(node.name for node in found if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("section", mission.sections(), ids=lambda section: section.title)
def test_every_test_is_there(section: mission.Section) -> None:
    for row in section.rows:
        tests = (*section.tests, *row.tests)
        assert tests, f"{row.name} is tested nowhere"
        assert len(set(tests)) == len(tests), row.name
        for test in tests:
            path, name = test.split("::")
            assert name.startswith("test_")
            assert name in functions_of(TESTS / path), test


def test_no_row_is_empty_or_there_twice() -> None:
    for section, row in ROWS:
        assert row.name, section.title
        assert row.here.endswith("."), row
        assert [other.name for other in section.rows].count(row.name) == 1, row.name


def test_every_kind_of_row_is_looked_at() -> None:
    assert {section.of for section in mission.sections()} == {*HAVE, *ELSEWHERE}
    assert HAVE.keys() >= WHOLE.keys()


@pytest.mark.parametrize("of", HAVE)
def test_what_the_table_has_is_in_the_code(of: str) -> None:
    """Unless it says that it is not, or is refused."""
    have = list(HAVE[of]())
    for row in mission.rows_of(of):
        assert row.is_missing or any(names(of, row) <= spellings for spellings in have), row.name


def names(of: str, row: mission.Row) -> set[str]:
    """The spellings of an option, with its subcommand before each; of anything else its name."""
    subcommand, space, spellings = row.name.partition(" ") if of == "options of subcommands" else ("", "", row.name)
    return {subcommand + space + each for each in spellings.split(", ")}


@pytest.mark.parametrize("of", WHOLE)
def test_what_the_code_has_is_in_the_table(of: str) -> None:
    ours = WHOLE[of]
    rows = {row.name for row in mission.rows_of(of)}
    assert not ours & rows
    assert {name for found in HAVE[of]() for name in found} - ours - rows == set()


def test_flags_are_those_that_are_typed_in_tests() -> None:
    """Which were read off mistral.rs a second time there."""
    typed = runpy.run_path(str(TESTS / "tools" / "test_mission_cli.py"))
    flags = {
        f"{name} {flag.replace(' ', ', ')}"
        for name, subcommand in typed["SUBCOMMANDS"].items()
        for flag, _, _ in (*subcommand.needed, *subcommand.optional)
    }
    rows = {row.name for row in mission.rows_of("options of subcommands")}
    assert {row for row in rows if not row.startswith(("toml ", "vision-plain "))} == flags
    spellings = {words.split()[0] for words, _, _ in typed["GLOBAL"]}
    assert {each for row in mission.rows_of("options server") for each in row.name.split(", ")} == spellings


def test_what_is_missing_is_said_first() -> None:
    text = mission.page()
    missing = [row.name for _, row in ROWS if row.is_missing]
    assert f"Of {len(ROWS)} items {len(missing)} are missing." in text
    assert text.count("| **Refused**") + text.count("| **Not here**") == len(missing)


def test_the_page_has_a_line_for_each_item() -> None:
    lines = [line for line in mission.page().splitlines() if line.startswith("| `")]
    for (_, row), line in zip(ROWS, lines, strict=True):
        assert line.startswith(f"| `{row.name.split(', ')[0]}`")
        assert all(test.partition("::")[2] in line for test in row.tests)
