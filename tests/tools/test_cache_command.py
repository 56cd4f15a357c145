"""`mistralrs-onnx cache` as it is typed."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mistralrs_onnx.caching.cache import cached_package
from mistralrs_onnx.sources.source import ModelSource
from mistralrs_onnx.tools import cache_command
from mistralrs_onnx.tools.cache_command import age
from mistralrs_onnx.tools.main import main


def cache(*arguments: str, typed: str | None = None) -> Result:
    return CliRunner().invoke(main, ["cache", *arguments], input=typed)


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MISTRALRS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "cache" / "packages").mkdir(parents=True)
    return tmp_path / "cache" / "packages"


@pytest.fixture(scope="module")
def made(tiny_llama, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package in a cache."""
    folder = tmp_path_factory.mktemp("made")
    tiny_llama(folder / "tiny.gguf").write()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MISTRALRS_CACHE", str(folder / "cache"))
        return cached_package(ModelSource("gguf", str(folder), "tiny.gguf"))


@pytest.fixture
def package(packages: Path, made: Path) -> Path:
    shutil.copytree(made.parents[1], packages.parent, dirs_exist_ok=True)
    return packages / made.name


@pytest.fixture
def leftover(packages: Path) -> Path:
    (packages / ".tiny-1.tmp-99999999").mkdir()
    return packages / ".tiny-1.tmp-99999999"


@pytest.fixture
def at_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_command, "_is_asked", lambda: True)


def test_looking_into_the_cache_loads_no_compiler() -> None:
    code = "import sys, mistralrs_onnx.tools.cache_command; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"onnx", "onnx_ir", "numpy", "onnxruntime", "sanic"} & set(done.stdout.split())


def test_an_empty_cache(packages: Path) -> None:
    assert cache("list").output == cache("verify").output == f"Nothing is cached in {packages.parent}.\n"
    assert json.loads(cache("list", "--json").output) == {"folder": str(packages.parent), "entries": []}
    assert cache("delete", "--all").output == "Deleted 0, 0 bytes.\n"


def test_listing_shows_names_sizes_ages_and_origins(package: Path, leftover: Path, packages: Path, made: Path) -> None:
    lines = cache("list").output.splitlines()
    assert lines[1].split() == ["name", "size", "made", "used"]
    assert lines[3] == "  left by a compile that was interrupted"
    assert lines[4].startswith(package.name)
    assert lines[4].endswith("just now  just now")
    assert lines[5] == f"  of {made.parents[2] / 'tiny.gguf'}"
    assert lines[6].startswith(f"2 in {packages.parent}, ")


def test_listing_for_programs(package: Path, made: Path) -> None:
    (entry,) = json.loads(cache("list", "--json").output)["entries"]
    assert (entry["name"], entry["state"], entry["path"]) == (package.name, "package", str(package))
    assert entry["origin"] == {"kind": "gguf", "path": str(made.parents[2] / "tiny.gguf"), "options": []}


def test_deleting_by_name(package: Path, leftover: Path) -> None:
    result = cache("delete", package.name)
    assert (result.exit_code, result.output.startswith("Deleted 1, ")) == (0, True)
    assert not package.exists()
    assert leftover.exists()


def test_deleting_leftovers(package: Path, leftover: Path) -> None:
    assert cache("delete", "--leftovers").exit_code == 0
    assert package.exists()
    assert not leftover.exists()


def test_deleting_everything_forgets_the_sums_too(package: Path, leftover: Path, packages: Path) -> None:
    assert cache("delete", "--all", "--yes").exit_code == 0
    assert list(packages.iterdir()) == []
    assert not (packages.parent / "digests").exists()


@pytest.mark.parametrize("name", ["..", "../packages", "{}", "/", ".", "*", ""])
def test_names_that_are_none_in_the_cache_delete_nothing(package: Path, name: str) -> None:
    result = cache("delete", name.format(package))
    assert (
        result.exit_code,
        "`mistralrs-onnx cache list` shows the names" in result.output or "is it" in result.output,
    ) == (2, True)
    assert package.exists()


def test_a_name_that_is_nearly_right(package: Path) -> None:
    assert f"is it {package.name}?" in cache("delete", package.name[:-1]).output


def test_a_link_is_left_alone(packages: Path, tmp_path: Path) -> None:
    (packages / "link").symlink_to(tmp_path)
    result = cache("delete", "link")
    assert (result.exit_code, "not a folder of ours" in result.output) == (2, True)
    assert cache("delete", "--all", "--yes").exit_code == 0
    assert (packages / "link").is_symlink()


@pytest.mark.parametrize("arguments", [(), ("--all", "--leftovers"), ("x", "--all")])
def test_it_must_be_clear_what_to_delete(packages: Path, arguments: tuple[str, ...]) -> None:
    result = cache("delete", *arguments)
    assert (result.exit_code, "say what" in result.output) == (2, True)


@pytest.mark.usefixtures("at_a_terminal")
def test_a_person_is_asked(package: Path) -> None:
    assert cache("delete", package.name, typed="n\n").output.endswith("Nothing was deleted.\n")
    assert package.exists()
    assert cache("delete", package.name, typed="").exit_code == 130
    assert package.exists()
    assert cache("delete", package.name, typed="y\n").exit_code == 0
    assert not package.exists()


def test_verifying_what_is_sound(package: Path) -> None:
    result = cache("verify", package.name)
    assert (result.exit_code, result.output) == (0, f"ok      {package.name}\n")


def test_verifying_what_is_broken_says_what_to_do(package: Path) -> None:
    (package / "config.json").unlink()
    result = cache("verify")
    assert result.exit_code == 4
    assert f"broken  {package.name}\n        config.json is missing\n" in result.output
    assert f"mistralrs-onnx cache delete {package.name}" in result.output
    assert json.loads(CliRunner().invoke(main, ["cache", "verify", "--json"]).stdout) == {
        package.name: ["config.json is missing"]
    }


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(5, "just now"), (61, "1 minute ago"), (7300, "2 hours ago"), (90000, "1 day ago"), (-5, "just now")],
)
def test_ages(seconds: float, text: str) -> None:
    assert age(time.time() - seconds) == text
