"""`mistralrs-onnx doctor`: checks this machine and a package, and says how to mend what is wrong."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path

import click

from mistralrs_onnx.compiler.sources.token_source import GRAMMAR, parse_token_source
from mistralrs_onnx.diagnosing.diagnosis import Check, Status, diagnose
from mistralrs_onnx.diagnosing.environment import Asked, gather
from mistralrs_onnx.diagnosing.package_diagnosis import diagnose_package
from mistralrs_onnx.diagnosing.package_trial import try_package

from .cli.failures import OTHER, reported
from .cli.logs import set_up_logging

ALWAYS_READ = frozenset(f"MISTRALRS_{name}" for name in ("CACHE", "DEBUG", "KERNEL_ISA", "TEST_DEVICE", "TEST_MODELS"))
COLORS: dict[Status, str] = {"ok": "green", "warn": "yellow", "fail": "red"}
EXAMPLES = """
\b
Examples:
  mistralrs-onnx doctor
  mistralrs-onnx doctor --online
  mistralrs-onnx doctor ~/packages/smollm2
\b
Exit codes: 0 when nothing fails, 1 when something does; warnings are no failures.
"""


@click.command(epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("package", type=click.Path(path_type=Path), required=False)
@click.option("--online", is_flag=True, help="Ask the hub whether it answers and knows the token.")
@click.option("--token-source", default="cache", show_default=True, metavar="SOURCE", help=f"Hub token: {GRAMMAR}.")
@click.option(
    "-p", "--port", type=click.IntRange(0, 65535), default=1234, show_default=True, metavar="N", help="To serve on."
)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def doctor(package: Path | None, token_source: str, port: int, *, online: bool, as_json: bool) -> None:
    """Check this machine: programs, processor, memory, folders, hub, settings, and what it computes.

    With a PACKAGE, check that too: whole, fitting, loading, computing the same bits in any batch. Nothing is changed.
    """
    set_up_logging()
    with reported():
        asked = Asked(known_variables(), sys.stdout.encoding, port, parse_token_source(token_source), online)
        checks = diagnose(gather(asked))
        if package is not None:
            checks += diagnose_package(try_package(package))
    click.echo(to_json(checks) if as_json else render(checks, width()))
    if any(check.status == "fail" for check in checks):
        raise SystemExit(OTHER)


def known_variables() -> frozenset[str]:
    """Names of variables that the commands read, each option's among them."""
    return ALWAYS_READ.union(*(_variables(command) for command in _commands()))


def _commands() -> Iterator[click.Command]:
    """Those that can be imported: of the others, no variable is read."""
    from .main import COMMANDS

    for lazy in COMMANDS.values():
        with suppress(ImportError):
            yield vars(import_module(f".{lazy.module}", __package__))[lazy.name]


def _variables(command: click.Command) -> Iterator[str]:
    for param in command.params:
        yield from [param.envvar] if isinstance(param.envvar, str) else param.envvar or ()
    if isinstance(command, click.Group):
        for each in command.commands.values():
            yield from _variables(each)


def width() -> int | None:
    """Of the terminal; None where lines need no end."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def to_json(checks: Sequence[Check]) -> str:
    ok = all(check.status != "fail" for check in checks)
    return json.dumps({"ok": ok, "checks": [check._asdict() for check in checks]}, indent=2, ensure_ascii=False)


def render(checks: Sequence[Check], width: int | None) -> str:
    """A line for each, folded to the width: what is so -> what to do. Then how many there are of which kind."""
    names = max(len(check.name) for check in checks)
    return "\n".join([*(_line(check, names, width) for check in checks), "", summary(checks)])


def summary(checks: Sequence[Check]) -> str:
    counts = {status: sum(check.status == status for check in checks) for status in COLORS}
    if counts["fail"]:
        return f"{counts['fail']} of {len(checks)} checks fail: mend them in this order."
    if counts["warn"]:
        return f"Nothing fails; {counts['warn']} of {len(checks)} checks warn."
    return f"All {len(checks)} checks are fine."


def _line(check: Check, names: int, width: int | None) -> str:
    text = f"{check.text} -> {check.remedy}" if check.remedy else check.text
    indent = 6 + names + 2
    if width is not None:
        text = click.wrap_text(text, width - 1, " " * indent, " " * indent).lstrip()
    return f"{click.style(check.status.ljust(6), fg=COLORS[check.status])}{check.name.ljust(names)}  {text}"
