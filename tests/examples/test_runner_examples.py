"""The examples of Runner run: on tiny models, and at full size on the demo."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
from golden import read_golden
from tiny_adapters import linears, write_adapter
from tiny_models import write_folder

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "python"
TEMPLATE = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}a:"
PRINTS = {
    "chat": r"> Name a color\.\n.*\n> Name a fruit of it\.\n.*\n",
    "streaming": r".*\n\d+ tokens, \d+\.\d in a second\n",
    "completion": r"0: Once upon a time.* \.\.\.\n1: Once upon a time.* \.\.\.\n",
    "regex": r"(19|20)\d\d-\d\d-\d\d\n",
    "yacc": r"(int|float)[-a-z0-9+*()=; ]*\n",
    "json_schema": r"[A-Z][a-z]+ is in (Africa|America|Asia|Europe)\n",
    "speculative": r".*\n\d+\.\d tokens in a second\n",
    "token_source": r".*\n",
}


def run(name: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")


@pytest.fixture
def tiny(tiny_llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A file that selects a model and its draft."""
    monkeypatch.setenv("MISTRALRS_CACHE", str(tmp_path / "cache"))
    model = tiny_llama(tmp_path / "tiny.gguf")
    model.chat_template = TEMPLATE
    model.tokens = [token for token in model.tokens if token not in "ĠĊ"]  # JSON may have any number of blanks
    model.write()
    table = f'quantized_model_id = "{tmp_path}"\nquantized_filename = "tiny.gguf"\n'
    text = f"[model]\n{table}\n[speculative]\ngamma = 2\n[speculative.draft_model]\n{table}"
    (tmp_path / "tiny.toml").write_text(text)
    return str(tmp_path / "tiny.toml")


@pytest.mark.parametrize("name", PRINTS)
def test_on_a_tiny_model(name: str, tiny: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    run(name, [tiny], monkeypatch)
    assert re.fullmatch(PRINTS[name], capsys.readouterr().out, re.DOTALL)


@pytest.mark.full
@pytest.mark.usefixtures("smollm2_gguf")
@pytest.mark.parametrize("name", PRINTS)
def test_on_the_demo(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    run(name, [], monkeypatch)
    assert re.fullmatch(PRINTS[name], capsys.readouterr().out, re.DOTALL)


def test_adapters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    llama, adapters = read_golden()["llama"].model, tmp_path / "adapters"
    for seed, name in enumerate(("sql", "poem")):
        write_adapter(adapters / name, linears(llama.shapes), seed=seed)
    base = write_folder(llama, tmp_path / "base")
    (base / "chat_template.jinja").write_text(TEMPLATE)
    preloads = [{"name": name, "adapter_model_id": str(adapters)} for name in ("sql", "poem")]
    order = {"order": [], "base_model_id": str(base), "preload_adapters": preloads}
    (tmp_path / "order.json").write_text(json.dumps(order))
    (tmp_path / "lora.toml").write_text(
        f'[model]\nadapters_model_id = "{adapters}"\norder = "{tmp_path / "order.json"}"\narch = "llama"\n'
    )
    monkeypatch.setenv("MISTRALRS_CACHE", str(tmp_path / "cache"))
    run("lora_activation", [str(tmp_path / "lora.toml"), "sql", "poem"], monkeypatch)
    said = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert said["sql, of this request"] == said["sql, which is active"]
    assert said["poem, of this request"] == said["poem, which is active"]
    assert len(set(said.values())) == 3


def test_without_adapters_the_example_says_how_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit, match=r"python lora_activation\.py MODEL\.toml NAME"):
        run("lora_activation", [], monkeypatch)
