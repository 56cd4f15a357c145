"""The reference is what the code says, and leaves nothing out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

import mistralrs_onnx
from mistralrs_onnx.compiler.archs import ARCHS
from mistralrs_onnx.ops.formats import FORMATS
from mistralrs_onnx.server.metrics.table import METRICS
from mistralrs_onnx.tools.main import COMMANDS
from mistralrs_onnx.tools.reference import cli, library, metrics, models, pages, routes, settings
from mistralrs_onnx.tools.reference.route_notes import FIELDS, ROUTES, TYPES

ROOT = Path(__file__).parents[3]


def test_the_pages_in_docs_are_fresh() -> None:
    assert list(pages.stale(ROOT / "docs" / "reference")) == [], f"run `{pages.COMMAND}`"


def test_writing_and_checking(tmp_path: Path) -> None:
    run = CliRunner().invoke
    missing = run(pages.main, [str(tmp_path), "--check"])
    assert missing.exit_code == 1
    assert "cli.md" in missing.output
    assert run(pages.main, [str(tmp_path)]).output.count("wrote") == len(pages.PAGES)
    assert run(pages.main, [str(tmp_path), "--check"]).exit_code == 0
    with (tmp_path / "cli.md").open("a") as file:
        file.write("by hand")
    assert run(pages.main, [str(tmp_path), "--check"]).exit_code == 1


def test_commands_and_options_are_there() -> None:
    text = cli.page()
    assert [name for name in COMMANDS if f"## mistralrs-onnx {name}" not in text] == []
    for option in ("--max-seqs", "--isq", "--lora-modules", "--draft", "--tgt-non-granular-index", "--gqa"):
        assert f"{option}" in text
    assert "Sentinel" not in text
    assert "<function" not in text


def test_fields_have_notes_and_notes_have_fields() -> None:
    fields = {name for schema in routes.BODIES.values() for name in schema.model_fields}
    assert {name.split(".")[-1] for name in FIELDS} == fields
    assert " any |" not in routes.page()
    assert set(TYPES) <= fields


def test_routes_are_those_of_the_server() -> None:
    source = (ROOT / "server" / "app.py").read_text(encoding="utf-8")
    served = re.findall(r'add_route\(\s*service\.\w+,\s*"([^"]+)",\s*methods=\["(\w+)"\]', source)
    found = {f"{method} {re.sub('<[^>]*>', 'NAME', path)}" for path, method in served}
    assert set(ROUTES) == found
    assert set(routes.BODIES) == {route for route in ROUTES if route.startswith("POST")}


def test_metrics_that_are_told_of_are_exported() -> None:
    names = {metric.name for metric in METRICS}
    assert all(f"\n| `{name}` |" in metrics.page() for name in names)
    told = re.findall(r"mistralrs_\w+", (ROOT / "docs" / "guides" / "deployment.md").read_text(encoding="utf-8"))
    assert told
    assert {name.removesuffix("_bucket") for name in told} <= names


def test_models_and_formats() -> None:
    assert all(f"`{name}`" in models.architectures() for name in ARCHS)
    assert all(f"`{name}`" in models.formats() for name in FORMATS)


def test_every_variable_is_told() -> None:
    """Those that the code reads by name, beside those of options."""
    text = settings.page()
    for folder in ("api", "compiler", "runtime", "server", "tools"):
        for path in (ROOT / folder).rglob("*.py"):
            read = re.findall(r"environ(?:\.get\(|\[)\"([A-Z_]+)\"", path.read_text(encoding="utf-8"))
            assert [name for name in read if f"`{name}`" not in text and name not in SYSTEM] == [], path


SYSTEM = {"PATH", "HOME", "LANG", "LC_ALL", "TERM", "LD_LIBRARY_PATH"}


@pytest.mark.parametrize("name", mistralrs_onnx.__all__)
def test_names_of_the_library_are_there(name: str) -> None:
    assert f"\n## {name}\n" in library.page()


def test_signatures_do_not_change_from_run_to_run() -> None:
    assert " at 0x" not in library.page()
    assert "PosixPath" not in library.page()
