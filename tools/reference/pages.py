"""Which pages there are, and whether those in a folder are what the code says now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import click

from . import cli, library, metrics, mission, models, routes, settings

COMMAND = "python -m mistralrs_onnx.tools.reference docs/reference"
NOTE = f"<!-- Written by `{COMMAND}` from the code: change that. -->\n\n"
PAGES: Mapping[str, Callable[[], str]] = {
    "cli.md": cli.page,
    "configuration.md": settings.page,
    "http.md": routes.page,
    "metrics.md": metrics.page,
    "python.md": library.page,
    "architectures.md": models.architectures,
    "formats.md": models.formats,
    "mission.md": mission.page,
}


def stale(folder: Path) -> Iterator[str]:
    """Names of pages that are missing, or say something else than the code."""
    for name, write in PAGES.items():
        path = folder / name
        if not path.is_file() or path.read_text(encoding="utf-8") != NOTE + write():
            yield name


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.option("--check", is_flag=True, help="Write nothing; fail when a page is not what the code says.")
def main(folder: Path, *, check: bool) -> None:
    """Writes the pages of docs/reference into FOLDER."""
    found = list(stale(folder))
    if check and found:
        raise click.ClickException(f"out of date in {folder}: {', '.join(found)}; run `{COMMAND}`")
    for name in found:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(NOTE + PAGES[name](), encoding="utf-8")
        click.echo(f"wrote {folder / name}")
