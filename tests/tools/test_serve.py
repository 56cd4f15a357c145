"""`mistralrs-server` as it is typed."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from golden import read_golden
from tiny_adapters import linears, write_adapter
from tiny_models import write_folder
from tiny_xlora import write_xlora
from xlora_serving import llama_modules

from mistralrs_onnx.compiler.compile import compile_gguf
from mistralrs_onnx.tools.cli.checkpoints import COMMANDS
from mistralrs_onnx.tools.serve import main

COMMAND = [sys.executable, "-c", "from mistralrs_onnx.tools.serve import main; main()"]


@pytest.fixture(scope="module")
def package(tiny_llama: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serve")
    return compile_gguf(tiny_llama(folder / "tiny.gguf").write(), folder / "package")


@contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    with subprocess.Popen([*COMMAND, *arguments], stdin=pipe, stdout=pipe, stderr=pipe, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_it_says_how_to_ask_and_answers_so(package: Path) -> None:
    with started("-p", "0", "--verify", "--max-model-len", "128", "compiled", "-m", str(package)) as process:
        assert process.stdout is not None
        assert re.fullmatch(r"Serving on http://127.0.0.1:\d+\n", process.stdout.readline())
        _, curl, url, option, header, flag, body = shlex.split(process.stdout.readline())
        assert (curl, option, flag) == ("curl", "-H", "-d")
        request = urllib.request.Request(url, body.encode(), dict([header.split(": ")]))
        with urllib.request.urlopen(request, timeout=20) as response:
            assert json.load(response)["usage"]["completion_tokens"] > 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


def test_guesses_change_no_token(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the model's own text says, and as a draft does, which here is the model itself, or a file says so."""
    monkeypatch.setenv("MISTRALRS_CACHE", str(tmp_path / "cache"))
    table = f'quantized_model_id = "{package.parent}"\nquantized_filename = "tiny.gguf"\n'
    selector = tmp_path / "selector.toml"
    selector.write_text(f"[model]\n{table}[speculative]\ngamma = 3\n[speculative.draft_model]\n{table}")
    body = {"prompt": "one two one two one two one", "max_tokens": 60, "temperature": 0, "ignore_eos": True}
    answers = []
    compiled = ["compiled", "-m", str(package)]
    guesses = ["--prompt-lookup", *compiled], ["--draft", str(package), "--gamma", "3", *compiled]
    for arguments in (compiled, *guesses, ["toml", "-f", str(selector)]):
        with serving(*arguments) as url:
            status, answer = post(f"{url}/v1/completions", body)
            assert status == 200, answer
            answers.append((answer["choices"][0]["text"], answer["usage"]["completion_tokens"]))
    assert answers[0][1] == 60
    assert answers[1:] == answers[:1] * 3


@contextmanager
def serving(*arguments: str) -> Iterator[str]:
    with started("-p", "0", "--max-model-len", "128", *arguments) as process:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1]


def post(url: str, body: dict[str, Any]) -> tuple[int, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=20) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def test_a_checkpoint_is_quantized_again_while_it_is_served(
    tiny_llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTRALRS_CACHE", str(tmp_path / "cache"))
    tiny_llama(tmp_path / "tiny.gguf").write()
    with serving("gguf", "-m", str(tmp_path), "-f", "tiny.gguf") as url:
        status, body = post(f"{url}/re_isq", {"ggml_type": "Q4_9"})
        assert status == 400
        assert "Q4_0, Q4_1" in body["error"]["message"]
        assert post(f"{url}/re_isq", {"ggml_type": "Q8_0"}) == (200, {"status": "ok", "type": "Q8_0"})
        assert post(f"{url}/v1/completions", {"prompt": "ab", "max_tokens": 2})[0] == 200
    manifests = [json.loads(path.read_text()) for path in (tmp_path / "cache/packages").glob("*/manifest.json")]
    types = [manifest["tensors"]["model.layers.0.mlp.up_proj.weight"]["type"] for manifest in manifests]
    assert sorted(types) == ["F32", "Q8_0"]


def test_what_is_quantized_already_stays_as_it_is(
    tiny_llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MISTRALRS_CACHE", str(tmp_path / "cache"))
    tiny_llama(tmp_path / "tiny.gguf", {"ffn_up": "Q4_0"}).write()
    with serving("gguf", "-m", str(tmp_path), "-f", "tiny.gguf") as url:
        status, body = post(f"{url}/re_isq", {"ggml_type": "Q8_0"})
        assert (status, body["error"]["param"]) == (400, "ggml_type")
        assert "quantized already" in body["error"]["message"]
        assert post(f"{url}/v1/completions", {"prompt": "ab", "max_tokens": 2})[0] == 200


@pytest.fixture
def adapted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a base, three adapters, and an ordering file of which two are in order and one is preloaded."""
    monkeypatch.setenv("MISTRALRS_CACHE", str(tmp_path / "cache"))
    model = read_golden()["llama"].model
    base = write_folder(model, tmp_path / "base")
    for seed, name in enumerate(("one", "two", "three")):
        write_adapter(tmp_path / "adapters" / name, linears(model.shapes), seed=seed)
    preload = [{"name": "three", "adapter_model_id": str(tmp_path / "adapters")}]
    ordering = {"order": ["one", "two"], "base_model_id": str(base), "preload_adapters": preload}
    (tmp_path / "ordering.json").write_text(json.dumps(ordering))
    return tmp_path


def models(url: str) -> dict[str, bool | None]:
    """Names, and whether they are active."""
    with urllib.request.urlopen(f"{url}/v1/models", timeout=20) as response:
        return {card["id"]: card.get("active") for card in json.load(response)["data"]}


def test_what_the_ordering_file_preloads_is_loaded_beside_the_model(adapted: Path) -> None:
    """The base is that of the ordering file; after /re_isq all is as before."""
    lora = ["lora", "-a", str(adapted / "adapters"), "-o", str(adapted / "ordering.json")]
    root = ["--adapter-root", str(adapted / "adapters"), "--max-loras", "4"]
    body = {"prompt": "ab", "max_tokens": 8, "temperature": 0, "ignore_eos": True}
    with serving(*root, *lora) as url:

        def said(**fields: Any) -> str:
            status, answer = post(f"{url}/v1/completions", body | fields)
            assert status == 200, answer
            return str(answer["choices"][0]["text"])

        assert models(url) == {"base": None, "three": False, "one": True, "two": True}
        assert said() == said(adapters=["one", "two"])
        assert len({said(), said(adapters=[]), said(model="one"), said(model="three")}) == 4
        assert post(f"{url}/v1/load_lora_adapter", {"lora_name": "four", "lora_path": "one"})[0] == 200
        assert said(model="four") == said(model="one")
        assert post(f"{url}/activate_adapters", {"adapter_names": ["three"]})[0] == 200
        assert post(f"{url}/re_isq", {"ggml_type": "Q8_0"})[0] == 200
        assert models(url) == {"base": None, "three": True, "one": False, "two": False, "four": False}
        assert said() == said(model="three") != said(adapters=[])


def test_merged_adapters_need_no_graph_that_takes_any(adapted: Path) -> None:
    lora = ["lora", "-m", str(adapted / "base"), "-a", str(adapted / "adapters" / "one")]
    with serving(*lora) as url:
        assert post(f"{url}/v1/completions", {"prompt": "ab", "max_tokens": 2})[0] == 200
        assert models(url) == {"base": None}


def test_modules_are_loaded_by_name(adapted: Path, package: Path) -> None:
    module = f"one={adapted / 'adapters' / 'one'}"
    with serving("--lora-modules", module, "plain", "-m", str(adapted / "base")) as url:
        assert models(url) == {"base": None, "one": False}
        status, body = post(f"{url}/v1/load_lora_adapter", {"lora_name": "two", "lora_path": "two"})
        assert (status, "--adapter-root" in body["error"]["message"]) == (403, True)
    result = CliRunner().invoke(main, ["-p", "0", "--lora-modules", module, "compiled", "-m", str(package)])
    assert (result.exit_code, "error: adapter 'one': " in result.output) == (4, True), result.output


def test_adapters_are_mixed_by_xlora(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the checkpoint, quantized again, and from the package; with scalings of each token and of a few."""
    monkeypatch.setenv("MISTRALRS_CACHE", str(tmp_path / "cache"))
    model = read_golden()["llama"].model
    base = write_folder(model, tmp_path / "base")
    modules = llama_modules(model.config)
    mixed = write_xlora(tmp_path / "xlora", modules, 64, base=str(base), layerwise_scalings=True)
    body = {"prompt": "hello there", "max_tokens": 40, "temperature": 0, "ignore_eos": True}

    def said(url: str) -> str:
        status, answer = post(f"{url}/v1/completions", body)
        assert status == 200, answer
        return str(answer["choices"][0]["text"])

    with serving("x-lora", "-x", str(mixed.folder), "-o", str(mixed.ordering)) as url:
        assert models(url) == {"base": None}
        granular = said(url)
        status, answer = post(f"{url}/v1/completions", body | {"adapters": ["first"]})
        assert (status, "mixes its own adapters (first, second, third)" in answer["error"]["message"]) == (400, True)
        assert post(f"{url}/re_isq", {"ggml_type": "Q4_0"})[0] == 200
        assert said(url) != granular
    [dense] = [path for path in (tmp_path / "cache/packages").iterdir() if '"Q4_0"' not in manifest_of(path)]
    index = "--tgt-non-granular-index"
    with serving("compiled", "-m", str(dense), index, "1000") as url:
        assert said(url) == granular
    with serving("x-lora", "-x", str(mixed.folder), "-o", str(mixed.ordering), index, "1") as url:
        early = said(url)
    with serving("compiled", "-m", str(dense), index, "1") as url:
        assert granular != said(url) == early


def manifest_of(package: Path) -> str:
    return (package / "manifest.json").read_text()


def test_a_chat_has_adapters_too(adapted: Path) -> None:
    module = f"one={adapted / 'adapters' / 'one'}"
    arguments = ["-i", "-c", "chatml", "--max-model-len", "64", "--lora-modules", module, "plain", "-m"]
    result = CliRunner().invoke(main, [*arguments, str(adapted / "base")], input="/adapter one\n/adapter two\n/exit\n")
    assert "Answering with one." in result.output, result.output
    assert "did you mean 'one'" in result.output or "loaded are ['one']" in result.output


def test_the_recommendations_of_a_model_can_be_left_aside(package: Path, tmp_path: Path) -> None:
    """A package whose generation_config.json is none cannot be loaded with it, and can without it."""
    broken = Path(shutil.copytree(package, tmp_path / "package"))
    config = broken / "generation_config.json"
    config.write_bytes(b"?" * config.stat().st_size)
    arguments = ["-i", "compiled", "-m", str(broken)]
    refused = CliRunner().invoke(main, arguments, input="/exit\n")
    assert refused.exit_code == 4
    assert "--generation-config none" in refused.output
    assert CliRunner().invoke(main, ["--generation-config", "none", *arguments], input="/exit\n").exit_code == 0


def test_interactive_mode_reads_lines(package: Path) -> None:
    with started("-i", "compiled", "-m", str(package)) as process:
        out, errors = process.communicate("hello\n/exit\n", timeout=20)
    assert process.returncode == 0, errors
    assert out.startswith("Talking to")
    assert "no chat template" in out  # the tiny model has none, and says so


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["compiled", "-m", "/nowhere"], 4, "error: /nowhere"),
        (["-i", "compiled", "-m", "/nowhere"], 4, "error: /nowhere"),
        (["gguf", "-m", ".", "-f", "nothing.gguf"], 4, "error: nothing.gguf"),
        (["--port", "123456", "demo"], 2, "123456"),
        (["--kv-mem", "lots", "demo"], 2, "4GiB"),
        (["compiled"], 2, "--model"),
        (["walk"], 2, "walk"),
        (["-i", "-l", "log.txt", "demo"], 2, "--log is of requests to a server"),
        (["--host", "not a host", "demo"], 1, "cannot listen on not a host"),
    ],
)
def test_mistakes_are_one_clear_line(arguments: list[str], code: int, text: str) -> None:
    result = CliRunner().invoke(main, ["-p", "0", *arguments] if "--port" not in arguments else arguments)
    assert result.exit_code == code
    assert text in result.output
    assert "Traceback" not in result.output
    assert len(result.output.splitlines()) <= 5


def test_a_package_that_cannot_run_as_asked(package: Path) -> None:
    result = CliRunner().invoke(main, ["-p", "0", "--max-model-len", "100000", "compiled", "-m", str(package)])
    assert result.exit_code == 4
    assert "100000" in result.output


@pytest.mark.parametrize("page", [[], ["demo"], ["compiled"], *([name] for name in COMMANDS)])
def test_help_fits_on_a_screen(page: list[str]) -> None:
    result = CliRunner().invoke(main, [*page, "--help"], terminal_width=100)
    assert result.exit_code == 0
    assert len(result.output.splitlines()) <= 40
