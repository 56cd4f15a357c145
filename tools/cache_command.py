"""`mistralrs-onnx cache`: the packages that were compiled on the way to something else."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from difflib import get_close_matches

import click

from mistralrs_onnx.caching.cache_entries import DELETABLE, Entry, delete, entries, forget_digests, problems
from mistralrs_onnx.caching.cache_places import cache_folder
from mistralrs_onnx.compiler.sizes import size_text
from mistralrs_onnx.runtime.errors import PackageError

from .cli.failures import INTERRUPTED, reported
from .sections import Section, show

EXAMPLES = """
\b
Examples:
  mistralrs-onnx cache list
  mistralrs-onnx cache verify
  mistralrs-onnx cache delete model.Q4_K_M-0123456789abcdef
  mistralrs-onnx cache delete --all --yes

The cache is the folder MISTRALRS_CACHE, else ~/.cache/mistralrs-onnx. What is
deleted is compiled again when it is needed; a server that runs keeps what it
has. `verify` ends with code 4 when something is broken.
"""
STATES = {
    "unusable": "cannot be used by this version",
    "leftover": "left by a compile that was interrupted",
    "compiling": "being compiled now",
    "foreign": "not a folder of ours, left alone",
}
UNITS = (("day", 24 * 3600), ("hour", 3600), ("minute", 60))
NAMES = click.argument("names", nargs=-1, metavar="[NAME]...")
JSON = click.option("--json", "as_json", is_flag=True, help="For programs.")


@click.group(epilog=EXAMPLES)
def cache() -> None:
    """List, verify or delete packages that were compiled on the way to running a checkpoint."""


@cache.command("list")
@JSON
def list_(*, as_json: bool) -> None:
    """Show packages: size, age, last use, what each was made of. And what else lies there."""
    found = entries()
    if as_json:
        click.echo(json.dumps({"folder": str(cache_folder()), "entries": [_record(each) for each in found]}, indent=2))
    elif not found:
        click.echo(f"Nothing is cached in {cache_folder()}.")
    else:
        show([listing(found)])


def _record(entry: Entry) -> dict[str, object]:
    return asdict(entry) | {"path": str(entry.path)}


def listing(found: Sequence[Entry]) -> Section:
    rows = [line for entry in found for line in _lines(entry)]
    total = f"{len(found)} in {cache_folder()}, {size_text(sum(entry.size for entry in found))}"
    return Section("Cache", rows, ("name", "size", "made", "used"), frozenset({1, 2, 3}), total)


def _lines(entry: Entry) -> Iterable[tuple[str, ...]]:
    used = "" if entry.used is None else age(entry.used)
    yield entry.name, size_text(entry.size), age(entry.made), used
    if entry.origin is not None:
        yield (f"  of {', '.join((entry.origin.path, *entry.origin.options))}",)
    elif entry.state != "package":
        yield (f"  {entry.problem or STATES[entry.state]}",)


def age(moment: float) -> str:
    """3 days ago."""
    past = time.time() - moment
    for unit, seconds in UNITS:
        if past >= seconds:
            number = int(past // seconds)
            return f"{number} {unit}{'s' if number > 1 else ''} ago"
    return "just now"


@cache.command("delete")
@NAMES
@click.option("--all", "everything", is_flag=True, help="All packages, leftovers and remembered sums.")
@click.option("--leftovers", is_flag=True, help="What interrupted compiles left.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def delete_(names: tuple[str, ...], *, everything: bool, leftovers: bool, yes: bool) -> None:
    """Delete packages by NAME. `cache list` shows the names. Asks on a terminal."""
    if sum((bool(names), everything, leftovers)) != 1:
        raise click.UsageError("say what: the NAME of packages, --leftovers or --all")
    chosen = named(names) if names else [each for each in entries() if _is_wanted(each, leftovers=leftovers)]
    for entry in chosen:
        if entry.state not in DELETABLE:
            raise click.UsageError(f"{entry.name} is not deleted: {STATES[entry.state]}")
    if not (yes or _agreed(chosen)):
        click.echo("Nothing was deleted.")
        return
    for entry in chosen:
        _delete(entry)
    if everything:
        forget_digests()
    click.echo(f"Deleted {len(chosen)}, {size_text(sum(entry.size for entry in chosen))}.")


def _is_wanted(entry: Entry, *, leftovers: bool) -> bool:
    return entry.state == "leftover" if leftovers else entry.state in DELETABLE


def _agreed(chosen: Sequence[Entry]) -> bool:
    if not chosen or not _is_asked():
        return True
    for entry in chosen:
        click.echo(f"{entry.name}  {size_text(entry.size)}")
    try:
        return click.confirm(f"Delete {'it' if len(chosen) == 1 else f'all {len(chosen)}'}?")
    except click.Abort:
        sys.exit(INTERRUPTED)


def _is_asked() -> bool:
    """A script is not."""
    return sys.stdin.isatty()


def _delete(entry: Entry) -> None:
    try:
        delete(entry)
    except OSError as error:
        raise click.ClickException(f"{entry.path} cannot be deleted: {error.strerror}") from error


@cache.command()
@NAMES
@JSON
def verify(names: tuple[str, ...], *, as_json: bool) -> None:
    """Check sizes and sha256 sums. Of all packages, or of those of a NAME."""
    chosen = named(names) if names else [each for each in entries() if each.state in ("package", "unusable")]
    with reported():
        found = {entry.name: list(problems(entry)) for entry in chosen}
        if as_json:
            click.echo(json.dumps(found, indent=2))
        else:
            _tell(found)
        broken = [name for name, complaints in found.items() if complaints]
        if broken:
            raise PackageError(
                f"{len(broken)} of {len(found)} packages cannot be used. Delete them, and they are compiled again "
                f"when they are needed: mistralrs-onnx cache delete {' '.join(broken)}"
            )


def _tell(found: dict[str, list[str]]) -> None:
    for name, complaints in found.items():
        click.echo(f"{'broken' if complaints else 'ok':8}{name}")
        for complaint in complaints:
            click.echo(f"{'':8}{complaint}")
    if not found:
        click.echo(f"Nothing is cached in {cache_folder()}.")


def named(names: Sequence[str]) -> list[Entry]:
    """Raises UsageError for a name that is not one in the cache; paths never are."""
    known = {entry.name: entry for entry in entries()}
    for name in names:
        if name not in known:
            near = get_close_matches(name, known, 1)
            advice = f"is it {near[0]}?" if near else "`mistralrs-onnx cache list` shows the names"
            raise click.UsageError(f"no {name!r} in {cache_folder()}: {advice}")
    return [known[name] for name in dict.fromkeys(names)]
