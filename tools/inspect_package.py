"""`mistralrs-onnx inspect`: what is in a package, a graph or a checkpoint."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console

from mistralrs_onnx.caching.cache_places import packages_folder
from mistralrs_onnx.inspecting.inspecting import inspect_path
from mistralrs_onnx.inspecting.inspection import Inspection
from mistralrs_onnx.inspecting.package_files import Hashing, silent
from mistralrs_onnx.runtime.errors import PackageError

from .cli.failures import reported
from .inspect_tables import sections
from .sections import show

EXAMPLES = """
\b
Examples:
  mistralrs-onnx inspect package
  mistralrs-onnx inspect --verify package
  mistralrs-onnx inspect package/engine.onnx
  mistralrs-onnx inspect --json ~/models/model.Q4_K_M.gguf

PATH is a package, an ONNX graph, a GGUF or GGML file, a folder or file of
safetensors, or the name of a package in the cache. Weights are not read, but
to compute sums.
"""


@click.command(epilog=EXAMPLES)
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True, help="Compute sha256 sums, compare them with those recorded; 4 if one differs.")
@click.option("--json", "as_json", is_flag=True, help="For programs: every tensor, every file.")
def inspect(path: Path, *, verify: bool, as_json: bool) -> None:
    """Show layers, formats, sizes, operators, inputs, outputs and files of a package, graph or checkpoint."""
    with reported():
        with _told() as hashing:
            found = inspect_path(_existing(path), verify=verify, hashing=hashing)
        if as_json:
            click.echo(json.dumps(found.to_json(), indent=2))
        else:
            show(sections(found, terminal=sys.stdout.isatty()))
        if found.problems:
            raise PackageError(f"{found.path} is damaged: {'; '.join(found.problems)}: make or download it again")
        if verify and not as_json:
            click.echo(f"\n{_verdict(found)}")


def _verdict(found: Inspection) -> str:
    num_compared = sum(file.is_compared for file in found.files)
    if num_compared < len(found.files):
        return f"{num_compared} of {len(found.files)} sums compared; for the other files none is recorded."
    return f"All {num_compared} files have the sums that are recorded."


def _existing(path: Path) -> Path:
    """Names of the cache hold where there is no such path. Raises UsageError."""
    if os.path.exists(path.expanduser()):  # a name that no system takes does not exist, whatever Path says
        return path.expanduser()
    cached = packages_folder() / path.name
    if path.name == str(path) and os.path.isdir(cached):
        return cached
    raise click.UsageError(f"{path}: no such file or folder, and no package of that name in {packages_folder()}")


@contextmanager
def _told() -> Iterator[Hashing]:
    """Says which file is read now, where somebody watches."""
    if not sys.stderr.isatty():
        yield silent
        return
    with Console(stderr=True).status("Reading ...") as status:
        yield lambda name: status.update(f"Hashing {name} ...")
