"""An X-LoRA of a real, tiny model over HTTP: in company, with cached prompts, with scalings that stay."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from golden import read_golden
from openai import BadRequestError, OpenAI
from tiny_models import write_folder
from tiny_xlora import write_xlora
from xlora_serving import compile_xlora, llama_modules

from mistralrs_onnx.compiler.adapters.xlora import ToMix
from mistralrs_onnx.model import LoadOptions, load
from mistralrs_onnx.runtime.engine import EngineOptions
from mistralrs_onnx.server.lifecycle import Server, ServerOptions

GUARD = 120.0
LLAMA = read_golden()["llama"].model
LENGTH = 40  # tokens of each answer
PROMPTS = ["ab", "hello there", "b" * 30, "one two three", "x", "why is the sky blue", "ab", "zz" * 9]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("xlora")
    base = write_folder(LLAMA, folder / "tiny")
    xlora = write_xlora(folder / "xlora", llama_modules(LLAMA.config), 64, layerwise_scalings=True)
    return compile_xlora(base, ToMix(xlora.folder, xlora.ordering), folder / "package").path


@contextmanager
def serving(package: Path, tgt_non_granular_index: int | None = None) -> Iterator[OpenAI]:
    engine = EngineOptions(max_seqs=8, max_model_len=96)
    model = load(package, LoadOptions(engine, tgt_non_granular_index=tgt_non_granular_index))
    ready = threading.Event()
    server = Server(lambda: model, ServerOptions(port=0, drain_timeout=1.0), lambda _: ready.set())
    thread = threading.Thread(target=server.run)
    thread.start()
    assert ready.wait(GUARD)
    try:
        with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=GUARD) as client:
            yield client
    finally:
        server.stop()
        thread.join(GUARD)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def client(package: Path) -> Iterator[OpenAI]:
    with serving(package) as client:
        yield client


def ask(client: OpenAI, prompt: str, adapters: Any = None, **options: Any) -> Any:
    body = {"adapters": adapters, "ignore_eos": True}
    return client.completions.create(
        model="tiny", prompt=prompt, max_tokens=LENGTH, temperature=0.0, extra_body=body, **options
    )


def text(client: OpenAI, prompt: str) -> str:
    return str(ask(client, prompt).choices[0].text)


def streamed(client: OpenAI, prompt: str) -> str:
    return "".join(chunk.choices[0].text for chunk in ask(client, prompt, stream=True))


def together(client: OpenAI) -> list[str]:
    with ThreadPoolExecutor(len(PROMPTS)) as pool:
        return list(pool.map(lambda prompt: streamed(client, prompt), PROMPTS))


@pytest.mark.parametrize("index", [None, 3])
def test_requests_in_company_are_as_alone(package: Path, index: int | None) -> None:
    with serving(package, index) as client:
        alone = [text(client, prompt) for prompt in PROMPTS]
        assert len(set(alone)) == len(set(PROMPTS))
        assert together(client) == alone


def test_cached_prompts_are_used(client: OpenAI) -> None:
    answers = [ask(client, "the same prompt twice") for _ in range(2)]
    first, second = (answer.usage.prompt_tokens_details.cached_tokens for answer in answers)
    assert (first, second) == (0, answers[0].usage.prompt_tokens - 1)
    assert answers[0].choices[0].text == answers[1].choices[0].text


def test_scalings_of_an_early_token_change_what_follows(package: Path, client: OpenAI) -> None:
    granular = [text(client, prompt) for prompt in PROMPTS]
    with serving(package, 1) as early:
        assert all(a != b for a, b in zip([text(early, prompt) for prompt in PROMPTS], granular, strict=True))
    with serving(package, LENGTH) as late:
        assert [text(late, prompt) for prompt in PROMPTS] == granular


def test_requests_choose_no_adapters(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match=r"mixes its own adapters \(first, second, third\) for each token"):
        ask(client, "ab", ["first"])
    assert ask(client, "ab", []).choices[0].text == text(client, "ab")
