"""What is gathered of a machine, from what it says of itself."""

from __future__ import annotations

import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
from stub_hub import StubHub

from mistralrs_onnx.compiler.compile import compile_gguf
from mistralrs_onnx.compiler.sources.token_source import parse_token_source
from mistralrs_onnx.diagnosing import environment
from mistralrs_onnx.diagnosing.environment import (
    Asked,
    ask_hub,
    cached,
    disk,
    gather,
    parse_requirement,
    port_problem,
    read_processor,
)
from mistralrs_onnx.diagnosing.facts import Cached, Dependency
from mistralrs_onnx.runtime.cuda import PROVIDER, Problem

INTEL = "processor\t: 0\nmodel name\t: Fast CPU\nflags\t\t: fpu avx2\nbugs\t\t:\n\nprocessor\t: 1\nflags\t\t: other\n"
ARM = "processor\t: 0\nFeatures\t: asimd asimddp\n\n"


def test_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MISTRALRS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MISTRALRS_TYPO", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_ENDPOINT", "nowhere")
    facts = gather(Asked(frozenset(), "utf-8", 0, parse_token_source("env:NO_SUCH_VARIABLE"), online=False))
    assert {"MISTRALRS_CACHE", "MISTRALRS_TYPO"} <= set(facts.variables)
    assert (facts.cache.folder, facts.cache.is_writable, facts.cached) == (tmp_path / "cache", True, Cached(0, 0))
    assert (facts.hub.is_offline, "HF_ENDPOINT" in facts.hub.problem) == (True, True)
    assert "NO_SUCH_VARIABLE" in facts.token.problem
    assert "CPUExecutionProvider" in facts.runtime.providers
    assert facts.requires_python == "3.11"
    assert all(each.installed for each in facts.dependencies)
    assert {each.name for each in facts.dependencies} >= {"numpy", "click", "huggingface_hub"}
    assert (facts.kernels.problem, len(facts.kernels.probed)) == ("", 4)
    assert facts.answer is None


@pytest.mark.parametrize(("version", "is_for_cpu"), [("1.31.1", False), ("1.32.0", True)])
def test_a_build_for_cuda(monkeypatch: pytest.MonkeyPatch, version: str, is_for_cpu: bool) -> None:
    providers = [PROVIDER, "CPUExecutionProvider"]
    library = SimpleNamespace(__version__=version, get_available_providers=lambda: providers)
    problem = Problem("no driver", "install it")
    monkeypatch.setattr(environment, "runtime_library", lambda oldest: library)
    monkeypatch.setattr(environment, "cuda_problem", lambda found: problem)
    found = environment._runtime()
    assert found[1:] == (tuple(providers), "", is_for_cpu, problem)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("numpy>=2.1", ("numpy", "2.1")),
        ("prompt-toolkit >= 3.0.50", ("prompt-toolkit", "3.0.50")),
        ("click", ("click", "0")),
        ('onnxruntime>=1.32; extra == "cpu"', None),
    ],
)
def test_requirements(text: str, found: tuple[str, str] | None) -> None:
    parsed = parse_requirement(text)
    assert (parsed and parsed[:2]) == found


def test_what_is_not_installed() -> None:
    assert parse_requirement("no-such-library>=1") == Dependency("no-such-library", "1", None)


@pytest.mark.parametrize(
    ("cpuinfo", "machine", "model", "features"),
    [
        (INTEL, "x86_64", "Fast CPU", {"fpu", "avx2"}),
        (ARM, "aarch64", "aarch64", {"asimd", "asimddp"}),
        ("", "arm64", "arm64", set()),
    ],
)
def test_processors(cpuinfo: str, machine: str, model: str, features: set[str]) -> None:
    assert read_processor(cpuinfo, machine, "") == (model, machine, frozenset(features))


def test_packages_and_what_is_useless(tiny_llama, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MISTRALRS_CACHE", str(tmp_path))
    assert cached() == Cached(0, 0)
    package = compile_gguf(tiny_llama(tmp_path / "tiny.gguf").write(), tmp_path / "packages" / "tiny")
    for name in (".other.old", "damaged"):
        (tmp_path / "packages" / name).mkdir()
        (tmp_path / "packages" / name / "file").write_bytes(b"four")
    assert cached() == Cached(1, sum(path.stat().st_size for path in package.iterdir()), 2, 8)


def test_a_folder_that_will_be_and_one_that_cannot(tmp_path: Path) -> None:
    later = disk(tmp_path / "a" / "b")
    assert (later.is_writable, later.free > 0) == (True, True)
    (tmp_path / "file").touch()
    assert not disk(tmp_path / "file" / "a").is_writable


def test_ports() -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert "in use" in port_problem(port)
    assert port_problem(port) == ""


def test_asking_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    with StubHub("me/tiny", {}).serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        for source in ("none", "literal:secret"):
            assert ask_hub(parse_token_source(source)).status == 404  # it knows of downloads only
    asked = [(each.path, each.token) for each in hub.seen]
    assert asked == [("/api/models", None), ("/api/whoami-v2", "secret")]


def test_a_hub_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    answer = ask_hub(parse_token_source("none"))
    assert (answer.status, "refused" in answer.problem) == (None, True)
    monkeypatch.setenv("HF_ENDPOINT", "nowhere")
    assert "HF_ENDPOINT" in ask_hub(parse_token_source("none")).problem
