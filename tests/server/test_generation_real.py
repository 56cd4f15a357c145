"""Grammars, log probabilities and forks on a real, tiny model over HTTP, with and without guessed tokens."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from golden import read_golden
from openai import BadRequestError, OpenAI
from tiny_models import write_folder
from tokenizers import Tokenizer, decoders

from mistralrs_onnx.compiler.compile import compile_folder
from mistralrs_onnx.model import LoadOptions, load
from mistralrs_onnx.runtime.engine import EngineOptions
from mistralrs_onnx.server.lifecycle import Server, ServerOptions
from mistralrs_onnx.speculate import SpeculateOptions

GUARD = 120.0
PROMPT = "abcabcabc"
# What a model of random weights can write within its context.
SCHEMA = {
    "type": "object",
    "properties": {"city": {"enum": ["Oslo", "Rome"]}, "warm": {"type": "boolean"}, "days": {"enum": [1, 22, 333]}},
    "required": ["city", "warm", "days"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With a tokenizer whose tokens are bytes, as grammars need."""
    folder = tmp_path_factory.mktemp("tiny")
    write_folder(read_golden()["llama"].model, folder / "tiny")
    tokenizer = Tokenizer.from_file(str(folder / "tiny/tokenizer.json"))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tiny/tokenizer.json"))
    return compile_folder(folder / "tiny", folder / "package")


@pytest.fixture(scope="module", params=[None, SpeculateOptions("lookup", 4, adaptive=False)], ids=["plain", "guessed"])
def client(package: Path, request: pytest.FixtureRequest) -> Iterator[OpenAI]:
    ready = threading.Event()
    options = LoadOptions(EngineOptions(max_seqs=8, max_model_len=128), speculate=request.param)
    server = Server(lambda: load(package, options), ServerOptions(port=0, drain_timeout=1.0), lambda _: ready.set())
    thread = threading.Thread(target=server.run)
    thread.start()
    assert ready.wait(GUARD)
    with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=GUARD) as made:
        yield made
    server.stop()
    thread.join(GUARD)
    assert not thread.is_alive()


def complete(client: OpenAI, prompt: Any = PROMPT, extra: dict[str, Any] | None = None, **options: Any) -> Any:
    options = {"max_tokens": 12, "temperature": 0, "seed": 1, **options}
    return client.completions.create(model="default", prompt=prompt, extra_body=extra or {}, **options)


def test_a_prompt_has_the_probabilities_that_it_had_as_an_answer(client: OpenAI) -> None:
    """The scores of an answer, and of the same text read again as lm-eval does: with no or one more token."""
    answer = complete(client, extra={"ignore_eos": True}, logprobs=3).choices[0]
    assert "".join(answer.logprobs.tokens) == answer.text
    for max_tokens in (0, 1):
        told = complete(client, PROMPT + answer.text, echo=True, logprobs=3, max_tokens=max_tokens).choices[0].logprobs
        assert len(told.tokens) == len(told.token_logprobs) == len(told.top_logprobs) == len(told.text_offset)
        assert told.token_logprobs[0] is told.top_logprobs[0] is None
        start = told.text_offset.index(len(PROMPT))
        scored = slice(start, start + len(answer.logprobs.tokens))
        assert told.tokens[scored] == answer.logprobs.tokens
        assert told.token_logprobs[scored] == pytest.approx(answer.logprobs.token_logprobs, abs=1e-5)
        likeliest = [max(top, key=top.__getitem__) for top in told.top_logprobs[scored]]
        assert likeliest == answer.logprobs.tokens  # it was greedy


def test_prompts_are_scored_beside_the_answer(client: OpenAI) -> None:
    """With the numbers that an echoed prompt has, also where both are asked for."""
    echoed = complete(client, echo=True, logprobs=2).choices[0]
    for options in ({"logprobs": 1, "echo": True}, {}):
        scored = complete(client, [PROMPT, "xyz"], extra={"prompt_logprobs": 2}, n=2, **options).choices
        assert scored[0].prompt_logprobs == scored[1].prompt_logprobs
        first, *rest = scored[0].prompt_logprobs
        num_prompt = len(rest) + 1
        assert first is None
        texts = [next(iter(each.values()))["decoded_token"] for each in rest]
        assert texts == echoed.logprobs.tokens[1:num_prompt]
        for each, logprob, top in zip(
            rest, echoed.logprobs.token_logprobs[1:], echoed.logprobs.top_logprobs[1:], strict=False
        ):
            own, *others = each.values()
            assert own["logprob"] == pytest.approx(logprob, abs=1e-6)
            assert {other["decoded_token"]: other["logprob"] for other in (own, *others)} == pytest.approx(top)
            assert [other["rank"] for other in others] == [i for i in (1, 2) if i != own["rank"]]
        if options:
            assert max(len(top or ()) for top in scored[0].logprobs.top_logprobs) == 2


def test_prompts_that_cannot_be_scored_are_said_to_be(client: OpenAI) -> None:
    for value in (True, -1, 21):
        with pytest.raises(BadRequestError) as caught:
            complete(client, extra={"prompt_logprobs": value})
        assert caught.value.param == "prompt_logprobs"
    with pytest.raises(BadRequestError, match="leave prompt_logprobs or stream out"):
        complete(client, extra={"prompt_logprobs": 1}, stream=True)
    for nothing in (False, None):
        answer = complete(client, extra={"prompt_logprobs": nothing, "logprobs": nothing})
        assert "prompt_logprobs" not in answer.choices[0].model_extra


@pytest.mark.parametrize("echo", [False, True])
def test_streamed_log_probabilities_are_the_whole_ones(client: OpenAI, echo: bool) -> None:
    options: dict[str, Any] = {"logprobs": 2, "echo": echo, "n": 2, "temperature": 1}
    whole = complete(client, [PROMPT, "xyz"], **options)
    texts, told = [""] * 4, [dict[str, list[Any]]() for _ in range(4)]
    for chunk in complete(client, [PROMPT, "xyz"], stream=True, **options):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            for key, values in (choice.logprobs.model_dump() if choice.logprobs else {}).items():
                told[choice.index].setdefault(key, []).extend(values)
    assert texts == [choice.text for choice in whole.choices]
    assert told == [choice.logprobs.model_dump() for choice in whole.choices]


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize("temperature", [0, 1])
def test_answers_keep_to_a_schema(client: OpenAI, n: int, temperature: int) -> None:
    format_ = {"type": "json_schema", "json_schema": {"name": "report", "strict": True, "schema": SCHEMA}}
    extra = {"response_format": format_}
    answer = complete(client, extra=extra, n=n, temperature=temperature, max_tokens=100)
    assert len(answer.choices) == n
    for choice in answer.choices:
        assert choice.finish_reason == "stop"
        jsonschema.validate(json.loads(choice.text), SCHEMA)


@pytest.mark.parametrize(
    ("extra", "pattern"),
    [
        ({"guided_regex": "[a-c]{3}x"}, "[a-c]{3}x"),
        ({"guided_choice": ["yes", "no"]}, "yes|no"),
        ({"structured_outputs": {"regex": "k{2,5}"}}, "k{2,5}"),
        ({"grammar": {"type": "lark", "value": 'start: "a" /[xy]{2}/'}}, "a[xy]{2}"),
    ],
)
def test_answers_keep_to_grammars(client: OpenAI, extra: dict[str, Any], pattern: str) -> None:
    answer = complete(client, extra=extra, temperature=1, n=2)
    for choice in answer.choices:
        assert re.fullmatch(pattern, choice.text)


def test_a_grammar_that_cannot_be_compiled_disturbs_nobody(client: OpenAI) -> None:
    expected = complete(client).choices[0].text
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(complete, client) for _ in range(3)]
        for value in ("(", "a{1,"):
            with pytest.raises(BadRequestError) as caught:
                complete(client, extra={"grammar": {"type": "regex", "value": value}})
            assert caught.value.code == "invalid_grammar"
        assert [each.result().choices[0].text for each in running] == [expected] * 3


def test_the_best_of_several_is_the_likeliest(client: OpenAI) -> None:
    options: dict[str, Any] = {"temperature": 1, "logprobs": 0, "seed": 3}
    drawn = complete(client, n=6, **options).choices
    means = {c.text: sum(c.logprobs.token_logprobs) / len(c.logprobs.token_logprobs) for c in drawn}
    best = complete(client, n=2, **options, best_of=6).choices
    assert [choice.text for choice in best] == sorted(means, key=means.__getitem__, reverse=True)[:2]


def test_what_is_asked_of_the_sampler_happens(client: OpenAI) -> None:
    plain = complete(client, extra={"ignore_eos": True}).choices[0]
    first = plain.text[0]
    letters = [chr(33 + i) for i in range(93)]
    bias = {str(2 + letters.index(first)): -100}
    assert first not in complete(client, logit_bias=bias).choices[0].text
    assert first not in complete(client, extra={"bad_words": [first]}).choices[0].text
    allowed = [2 + letters.index(letter) for letter in "pq"]
    assert set(complete(client, extra={"allowed_token_ids": allowed}).choices[0].text) <= set("pq")
    stopped = complete(client, stop=[first], extra={"include_stop_str_in_output": True}).choices[0]
    assert (stopped.text, stopped.finish_reason) == (first, "stop")
    assert complete(client, stop=[first]).choices[0].text == ""
    least = complete(client, stop=[first], extra={"min_tokens": 12, "ignore_eos": True})
    assert least.usage.completion_tokens == 12
