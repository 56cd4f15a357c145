"""What an editable install hides: every package must be listed, or it is missing from the wheel."""

from __future__ import annotations

import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
FOLDERS = ("api", "compiler", "graphs", "ops", "runtime", "server", "tools")


def test_every_folder_with_code_is_a_listed_package() -> None:
    listed = set(PROJECT["tool"]["setuptools"]["packages"])
    found = {path.parent.relative_to(ROOT) for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")}
    names = {".".join(["mistralrs_onnx", *(part for part in path.parts if part != "api")]) for path in found}
    assert names == listed


def test_every_package_says_what_it_is_for() -> None:
    for folder in PROJECT["tool"]["setuptools"]["package-dir"].values():
        first = (ROOT / folder / "__init__.py").read_text(encoding="utf-8")
        assert first.startswith('"""'), f"{folder}/__init__.py needs a docstring"


def test_types_ship_and_scripts_exist() -> None:
    assert (ROOT / "api" / "py.typed").is_file()
    for target in PROJECT["project"]["scripts"].values():
        module = target.split(":")[0].removeprefix("mistralrs_onnx.")
        assert (ROOT / module.replace(".", "/")).with_suffix(".py").is_file(), target


def test_no_build_of_the_runtime_is_forced_on_users_of_another() -> None:
    assert not any("onnxruntime" in need for need in PROJECT["project"]["dependencies"])
