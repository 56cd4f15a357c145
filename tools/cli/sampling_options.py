"""Options that say how answers are drawn, where they end, and what they keep to."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.grammar.spec import KINDS, GrammarSpec, make_spec
from mistralrs_onnx.runtime.sampling import SamplingParams

from .option import Command, Decorator, decorated, option, said

SAMPLING = "Sampling"  # subject
FIELDS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_tokens", "seed", "stop")


class Grammar(click.ParamType[GrammarSpec]):
    """TYPE:VALUE, where @FILE stands for what is in the file."""

    name = "grammar"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> GrammarSpec:
        if isinstance(value, GrammarSpec):
            return value
        kind, _, text = str(value).partition(":")
        try:
            return make_spec(kind, self._read(text[1:]) if text.startswith("@") else text)
        except (OSError, UnicodeDecodeError) as error:
            self.fail(f"{text[1:]} cannot be read: {error}", param, ctx)
        except RequestError as error:
            self.fail(f"{error}; write it like regex:[0-9]+ or json_schema:@schema.json", param, ctx)

    def _read(self, name: str) -> str:
        return Path(name).expanduser().read_text(encoding="utf-8")


def _option(name: str, kind: click.ParamType[Any], text: str, **rest: Any) -> Decorator:
    return option(name, type=kind, help=text, subject=SAMPLING, **rest)


SAMPLING_OPTIONS = (
    _option("--temperature", click.FLOAT, "0: the likeliest token.", metavar="X", show_default="the model's, or 0.3"),
    _option("--top-k", click.INT, "Of the N likeliest.", metavar="N", show_default="the model's, or all"),
    _option(
        "--top-p", click.FLOAT, "Of the likeliest that make up X.", metavar="X", show_default="the model's, or 0.95"
    ),
    _option(
        "--min-p",
        click.FLOAT,
        "None below X times the likeliest.",
        metavar="X",
        rare=True,
        show_default="the model's, or 0",
    ),
    _option(
        "--repetition-penalty",
        click.FLOAT,
        "Above 1: less of what was said.",
        metavar="X",
        show_default="the model's, or 1",
    ),
    _option("--seed", click.INT, "The same answer each time.", metavar="N", show_default="another each time"),
    _option("--max-tokens", click.INT, "Where an answer is cut off.", metavar="N", show_default="what fits"),
    _option("--stop", click.STRING, "End before this text; repeat for more.", multiple=True, metavar="TEXT"),
    _option("--grammar", Grammar(), f"Or TYPE:@FILE: {', '.join(KINDS)}.", metavar="TYPE:VALUE"),
)


def sampling_options(command: Command) -> Command:
    """Adds the options that `asked` and `grammar` read."""
    return decorated(command, SAMPLING_OPTIONS)


def asked(ctx: click.Context) -> Mapping[str, Any]:
    """Fields of SamplingParams that were said. Raises UsageError for what they cannot be."""
    values = {name: said(ctx)[name] for name in FIELDS if said(ctx)[name] not in (None, ())}
    try:
        SamplingParams(**values)
    except RequestError as error:
        raise click.UsageError(f"--{(error.param or '').replace('_', '-')}: {error}") from error
    return values


def grammar(ctx: click.Context) -> GrammarSpec | None:
    spec: GrammarSpec | None = said(ctx)["grammar"]
    return spec
