"""How answers are to be drawn, as it is typed."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from mistralrs_onnx.runtime.grammar.spec import GrammarSpec
from mistralrs_onnx.tools.cli.sampling_options import asked, grammar, sampling_options


@click.command()
@sampling_options
@click.pass_context
def command(ctx: click.Context) -> None:
    click.echo(repr((dict(asked(ctx)), grammar(ctx))))


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def test_every_option_is_a_field_of_the_parameters() -> None:
    assert invoke().output == "({}, None)\n"
    fields = {
        "temperature": 0.0,
        "top_k": 3,
        "top_p": 0.5,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "max_tokens": 7,
        "seed": 0,
        "stop": ("a", "b"),
    }
    options = [f"--{name.replace('_', '-')}={value}" for name, value in fields.items() if name != "stop"]
    assert invoke(*options, "--stop", "a", "--stop", "b").output == f"({fields!r}, None)\n"


def test_grammars_are_typed_or_read(tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "object"}')
    for text, spec in {
        "regex:[0-9]+:x": GrammarSpec("regex", "[0-9]+:x"),
        "json_object": GrammarSpec("json_object", ""),
        f"json_schema:@{schema}": GrammarSpec("json_schema", '{"type":"object"}'),
        'choice:["yes","no"]': GrammarSpec("choice", '["yes","no"]'),
    }.items():
        assert invoke("--grammar", text).output == f"({{}}, {spec!r})\n"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--temperature", "200"], "--temperature: temperature must be a number from 0 to 100, got 200.0"),
        (["--top-p", "0"], "--top-p: top_p must be a number above 0"),
        (["--max-tokens", "0"], "--max-tokens: max_tokens must be an integer from 1"),
        (["--stop", ""], "--stop: each string of stop must have 1 to 256"),
        (["--seed", "x"], "'x' is not a valid integer"),
        (["--grammar", "regexp:a"], "did you mean regex?"),
        (["--grammar", "regex"], "must not be empty"),
        (["--grammar", "json_schema:{"], "is no JSON"),
        (["--grammar", "regex:@/no/where"], "/no/where cannot be read"),
    ],
)
def test_mistakes_are_wrong_usage(arguments: list[str], complaint: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert complaint in " ".join(result.output.split())
