"""Options that say how answers are drawn, where they end, and what they keep to."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.grammar.spec import KINDS, GrammarSpec, make_spec
from mistralrs_onnx.runtime.sampling import SamplingParams

from .params import Pair

Command = Callable[..., Any]
Decorator = Callable[[Command], Command]

GATHERED = f"{__name__}.gathered"  # key of a click context's notes


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


def _keep(ctx: click.Context, param: click.Parameter, value: Any) -> None:
    """What was not said is not kept."""
    if value not in (None, ()):
        ctx.meta.setdefault(GATHERED, {})[param.name] = value


def _option(name: str, kind: click.ParamType[Any], **rest: Any) -> Decorator:
    return click.option(name, type=kind, expose_value=False, callback=_keep, **rest)


SAMPLING_OPTIONS = (
    _option("--temperature", click.FLOAT, cls=Pair, metavar=" X, --top-k N", help="How tokens are drawn: as the model"),
    _option("--top-p", click.FLOAT, cls=Pair, metavar=" X, --min-p X", help="  recommends, else temperature 0.3, 0.95"),
    _option("--top-k", click.INT, hidden=True),
    _option("--min-p", click.FLOAT, hidden=True),
    _option("--repetition-penalty", click.FLOAT, metavar="X", help="Above 1: say less again.  [default: the model's]"),
    _option("--max-tokens", click.INT, cls=Pair, metavar=" N, --seed N", help="Length; the same answer every time."),
    _option("--seed", click.INT, hidden=True),
    _option("--stop", click.STRING, multiple=True, metavar="TEXT", help="End before this text; repeat for more."),
    _option("--grammar", Grammar(), metavar="TYPE:VALUE", help=f"Or TYPE:@FILE. {', '.join(KINDS)}."),
)


def sampling_options(command: Command) -> Command:
    """Adds the options that `asked` and `grammar` read."""
    for option in reversed(SAMPLING_OPTIONS):
        command = option(command)
    return command


def asked(ctx: click.Context) -> Mapping[str, Any]:
    """Fields of SamplingParams that were said. Raises UsageError for what they cannot be."""
    said = {name: value for name, value in ctx.meta.get(GATHERED, {}).items() if name != "grammar"}
    try:
        SamplingParams(**said)
    except RequestError as error:
        raise click.UsageError(f"--{(error.param or '').replace('_', '-')}: {error}") from error
    return said


def grammar(ctx: click.Context) -> GrammarSpec | None:
    spec: GrammarSpec | None = ctx.meta.get(GATHERED, {}).get("grammar")
    return spec
