"""mistral.rs's Python API and files as of June 2024, name by name: each changes what is done."""

from __future__ import annotations

import inspect
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from golden import read_golden
from tiny_models import write_folder
from tiny_runners import chat, chat_request, complete, tiny_runner, tiny_which
from tiny_xlora import write_xlora

from mistralrs_onnx.compiler.adapters.xlora import ToMix
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.sources.token_source import TokenSource
from mistralrs_onnx.drawing import asked
from mistralrs_onnx.requests import CompletionRequest
from mistralrs_onnx.runner import Runner
from mistralrs_onnx.selector import GLOBAL, INTEGERS, KINDS, read_selector
from mistralrs_onnx.which import AnyWhich, Architecture, Which, chosen, non_granular_index

CHOICES = {name: kind for name, kind in vars(Which).items() if isinstance(kind, type) and name != "VisionPlain"}
NO_END = {97: -100.0}


def effect(which: AnyWhich) -> object:
    return chosen(which), which.repeat_last_n, non_granular_index(which)


def arguments(kind: Any) -> list[inspect.Parameter]:
    parameters = inspect.signature(kind).parameters.values()
    return [each for each in parameters if each.kind is not each.KEYWORD_ONLY]


@pytest.mark.parametrize(
    ("name", "argument"), [(name, each.name) for name, kind in CHOICES.items() for each in arguments(kind)]
)
def test_every_argument_of_a_choice_is_read(name: str, argument: str) -> None:
    kind: Any = CHOICES[name]
    least = {each.name: "a" for each in arguments(kind) if each.default is each.empty} | {"model_id": "base"}
    usual = {key: value for key, value in least.items() if key in inspect.signature(kind).parameters}
    assert effect(kind(**usual)) != effect(kind(**usual | {argument: 2 if argument in INTEGERS else "b"}))


@pytest.mark.parametrize(
    "which",
    [
        Which.Plain("model", tokenizer_json="other"),
        Which.GGUF("other", "model", "model.gguf"),
        Which.GGML("first", "model", "model.bin", "other"),
        Which.GGML("other", "model", "model.bin"),
    ],
)
def test_another_tokenizer_is_that_of_the_model(
    which: AnyWhich, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("model/config.json", "model/model.safetensors", "model/model.gguf", "model/model.bin", "other/x"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()
    source, options = chosen(which)
    assert source.locate(options).options.reading.tokenizer == Path("other")


def test_architecture_and_order_are_taken(tmp_path: Path) -> None:
    llama = read_golden()["llama"].model
    base = str(write_folder(llama, tmp_path / "base"))
    mixed = write_xlora(tmp_path / "mixed", {"model.layers.0.mlp.up_proj": (8, 8)}, 8, base=base)
    which = Which.XLora(Architecture.Mistral, str(mixed.folder), str(mixed.ordering), model_id=base)
    source, options = chosen(which)
    located = source.locate(options)
    assert located.options.xlora == ToMix(mixed.folder, mixed.ordering)
    with located.open() as checkpoint:
        assert checkpoint.arch.name == "mistral"


def test_the_hub_is_shown_the_token_that_was_said(monkeypatch: pytest.MonkeyPatch) -> None:
    asked_with = []

    def fetch(model: str, token_source: TokenSource, **how: Any) -> Path:
        asked_with.append(token_source)
        raise CompileError("enough")

    monkeypatch.setattr("mistralrs_onnx.sources.source.locate", fetch)
    with pytest.raises(ValueError, match="enough"):
        Runner(Which.Plain("acme/tiny"), token_source="env:MINE")
    assert asked_with == [TokenSource("env", "MINE")]


@pytest.mark.parametrize("truncate", [False, True])
def test_a_model_knows_whether_prompts_are_cut(which: Which.GGUF, truncate: bool) -> None:
    with tiny_runner(which, truncate_sequence=truncate) as runner:
        assert model_of(runner).truncate_sequence is truncate


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        (kind, key)
        for kind, keys in KINDS.items()
        if kind != "vision-plain"
        for key in (*keys.needed, *keys.optional, *GLOBAL, "dtype")
    ],
)
def test_every_key_of_a_file_is_read(kind: str, key: str, tmp_path: Path) -> None:
    keys = KINDS[kind]
    least = dict.fromkeys(keys.needed, "'a'") | {"kind": f"'{kind}'"}
    if "model_id" in keys.known:
        least["model_id"] = "'base'"

    def read(**values: str) -> object:
        path = tmp_path / "selector.toml"
        path.write_text("[model]\n" + "".join(f"{name} = {value}\n" for name, value in (least | values).items()))
        return effect(read_selector(path).which)

    assert read() != read(**{key: "2" if key in INTEGERS else "'f16'"})


@pytest.fixture(scope="module")
def which(tiny_llama: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Which.GGUF]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MISTRALRS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield tiny_which(tiny_llama, tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def runner(which: Which.GGUF) -> Iterator[Runner]:
    with tiny_runner(which) as runner:
        yield runner


def model_of(runner: Runner) -> Any:
    assert runner._model is not None
    return runner._model


def test_fields_of_completions_reach_the_sampler(runner: Runner) -> None:
    fields: dict[str, Any] = {"presence_penalty": 0.5, "frequency_penalty": 0.25, "temperature": 0.75, "top_p": 0.5}
    fields |= {"top_k": 7, "max_tokens": 5, "logit_bias": {3: 1.5}}
    params = asked(CompletionRequest("a", "tiny", stop_seqs=["x", "y"], **fields), model_of(runner)).params
    assert {name: getattr(params, name) for name in fields} == fields
    assert params.stop == ("x", "y")


def test_every_response_says_what_it_is(runner: Runner) -> None:
    *_, chunk = streamed(runner)
    text = complete(runner)
    for response, kind, front in ((text, "text_completion", "cmpl-"), (chunk, "chat.completion.chunk", "chatcmpl-")):
        assert (response.object, response.model, response.system_fingerprint) == (kind, "tiny", "local")
        assert response.id.startswith(front)
        assert abs(response.created - time.time()) < 60
        assert len(response.choices) == 1
        assert response.usage.completion_tokens == 12


def streamed(runner: Runner, **fields: Any) -> Iterator[Any]:
    chunks: Any = runner.send_chat_completion_request(chat_request(stream=True, **fields))
    yield from chunks


def test_who_speaks_and_how_answers_are_numbered(runner: Runner) -> None:
    chunks = list(streamed(runner, n_choices=2))
    assert {(chunk.choices[0].index, chunk.choices[0].delta.role) for chunk in chunks} == {
        (0, "assistant"),
        (1, "assistant"),
    }
    choices = complete(runner, n_choices=2).choices
    assert [(choice.index, choice.logprobs) for choice in choices] == [(0, None), (1, None)]


def test_alternatives_have_texts_and_bytes(runner: Runner) -> None:
    logprobs = chat(runner, logprobs=True, top_logprobs=5, temperature=0.0).choices[0].logprobs
    assert logprobs is not None
    for each in logprobs.content:
        assert len({top.token for top in each.top_logprobs}) == 5
        assert [bytes(top.bytes).decode() for top in each.top_logprobs] == [top.token for top in each.top_logprobs]


@pytest.mark.parametrize("kept", [0, 1])
def test_a_runner_keeps_so_many_conversations(which: Which.GGUF, kept: int) -> None:
    with tiny_runner(which, prefix_cache_n=kept) as runner:
        for _ in range(2):
            complete(runner, "abcdefgh")
        assert (model_of(runner).engine.stats().prefix_hit_tokens > 0) is bool(kept)


def test_a_draft_guesses_as_far_as_gamma(which: Which.GGUF) -> None:
    """It is the model itself, so that all its guesses are right."""
    steps = {}
    for gamma in (1, 8):
        with tiny_runner(which, which_draft=which, speculative_gamma=gamma) as runner:
            assert complete(runner, max_tokens=60, temperature=0.0, logit_bias=NO_END).usage.completion_tokens == 60
            steps[gamma] = model_of(runner).engine.stats().steps
    assert steps[8] < 20 < 30 <= steps[1]
