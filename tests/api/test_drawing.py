"""What requests ask of the engine, seen in the answers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import pytest
from tiny_runners import chat, chat_request, complete, said, tiny_runner, tiny_which
from yacc_grammars import ARITHMETIC

from mistralrs_onnx.drawing import Drawing, asked
from mistralrs_onnx.model import Model
from mistralrs_onnx.runner import Runner
from mistralrs_onnx.runtime.engine import Output
from mistralrs_onnx.runtime.sampling import SamplingParams


@pytest.fixture(scope="module")
def runner(tiny_llama: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    folder = tmp_path_factory.mktemp("tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MISTRALRS_CACHE", str(folder / "cache"))
        with tiny_runner(tiny_which(tiny_llama, folder)) as runner:
            yield runner


@pytest.fixture
def model(runner: Runner) -> Model:
    assert runner._model is not None
    return runner._model


def test_a_text_is_what_the_user_says(runner: Runner) -> None:
    assert said(runner, "hi") == said(runner, [{"role": "user", "content": "hi"}])
    assert said(runner, "hi") == said(runner, [{"role": "user", "content": [{"type": "text", "text": "hi"}]}])
    assert said(runner, "hi") != said(runner, [{"role": "system", "content": "hi"}])


def test_every_field_reaches_the_sampler(model: Model) -> None:
    fields = {"presence_penalty": 0.5, "frequency_penalty": 0.25, "repetition_penalty": 1.5, "temperature": 0.75}
    fields |= {"top_p": 0.5, "top_k": 7, "min_p": 0.25, "seed": 9, "max_tokens": 5, "logit_bias": {3: 1.5}}
    params = asked(chat_request(logprobs=True, top_logprobs=3, stop_seqs=["x", "y"], **fields), model).params
    assert {name: getattr(params, name) for name in fields} == fields
    assert (params.stop, params.logprobs) == (("x", "y"), 3)
    assert params.repeat_last_n == 64


def test_what_is_not_said_is_as_the_model_recommends(model: Model) -> None:
    defaults = {"top_k": 3, "temperature": 0.5, "logit_bias": {1: -5.0}}
    model.defaults, before = defaults, model.defaults
    try:
        params = asked(chat_request(temperature=None, logit_bias={2: 1.0}), model).params
    finally:
        model.defaults = before
    assert (params.top_k, params.temperature, params.logit_bias) == (3, 0.5, {1: -5.0, 2: 1.0})


def test_without_a_limit_the_context_is_filled(runner: Runner) -> None:
    usage = complete(runner, max_tokens=None, logit_bias={97: -100.0}).usage  # the end
    assert usage.total_tokens == 256


@pytest.mark.parametrize("form", [list, str])
def test_a_stop_text_ends_the_answer(runner: Runner, form: Any) -> None:
    text = said(runner, max_tokens=100)
    stop = next(text[i : i + 2] for i in range(1, len(text)) if text[i + 1] in text[:i])  # each letter alone is sooner
    answer = chat(runner, max_tokens=100, stop_seqs=[stop] if form is list else stop).choices[0]
    assert (answer.message.content, answer.finish_reason) == (text.partition(stop)[0], "stop")


def test_with_a_seed_answers_differ_and_can_be_had_again(runner: Runner) -> None:
    fields: dict[str, Any] = {"n_choices": 3, "seed": 7}
    answers = [each.message.content for each in chat(runner, **fields).choices]
    assert [each.message.content for each in chat(runner, **fields).choices] == answers
    assert len(set(answers)) == 3


def test_answers_to_a_prompt_read_it_once(model: Model) -> None:
    drawing = Drawing(model.engine, asked(chat_request("never said before", n_choices=3), model))
    drawing.finish()
    first, *others = drawing._requests
    assert [each.num_cached for each in others] == [first.num_prompt - 1] * 2


def test_the_best_of_several(runner: Runner, model: Model) -> None:
    fields: dict[str, Any] = {"seed": 7}
    drawn = [each.text for each in complete(runner, n_choices=5, **fields).choices]
    best = complete(runner, n_choices=2, best_of=5, **fields)
    texts = [each.text for each in best.choices]
    assert [each.index for each in best.choices] == [0, 1]
    assert best.usage.completion_tokens == 60
    scores = {text: mean(model, text) for text in drawn}
    assert texts == sorted(drawn, key=lambda text: -scores[text])[:2]


def mean(model: Model, text: str) -> float:
    """Log probability of a continuation of abc, token by token, as the engine tells of prompts."""
    outputs: SimpleQueue[Output] = SimpleQueue()
    prompt, ids = model.encode("abc"), model.encode("abc" + text)
    scored = model.engine.submit(ids, SamplingParams(max_tokens=1), outputs.put, prompt_logprobs=0)
    assert outputs.get().finish_reason is not None
    assert scored.prompt_logprobs is not None
    known = [each.logprob for each in scored.prompt_logprobs[len(prompt) :] if each is not None]
    return sum(known) / len(known)


def test_a_regular_expression_is_kept_to(runner: Runner) -> None:
    for seed in range(3):
        answer = chat(runner, grammar="(cat|dog){2}", grammar_type="regex", seed=seed).choices[0]
        assert re.fullmatch("(cat|dog){2}", answer.message.content)
        assert answer.finish_reason == "stop"


def test_a_yacc_grammar_is_kept_to(runner: Runner) -> None:
    fields: dict[str, Any] = {"grammar": ARITHMETIC, "grammar_type": "yacc"}
    assert re.fullmatch(r"[-+*()0-9 ]+", complete(runner, max_tokens=40, **fields).choices[0].text)


def test_a_schema_is_kept_to(runner: Runner) -> None:
    schema = {
        "type": "object",
        "properties": {"n": {"enum": [1, 22]}},
        "required": ["n"],
        "additionalProperties": False,
    }
    text = said(runner, grammar=schema, grammar_type="json_schema", max_tokens=60)
    assert json.loads(text)["n"] in (1, 22)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"temperature": -1.0}, "temperature must be a number from 0 to 100, got -1.0"),
        ({"logit_bias": {500: 1.0}}, "500"),
        ({"max_tokens": 1000}, "the context holds 256 tokens"),
        ({"n_choices": 65}, "at most 64 answers to a request, got 65"),
        ({"adapters": ["sql"]}, "tiny was loaded without adapters"),
        ({"grammar": "(", "grammar_type": "regex"}, "grammar"),
    ],
)
def test_what_cannot_be_is_a_value_error(runner: Runner, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        chat(runner, **fields)


@pytest.mark.parametrize(
    ("messages", "says"),
    [
        ([{"content": "hi"}], "a message is a dict with a role"),
        ([{"role": "user", "content": [{"type": "image_url"}]}], "only parts of type 'text' can be read"),
    ],
)
def test_messages_that_cannot_be_read(runner: Runner, messages: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        chat(runner, messages)


def test_when_one_cannot_be_submitted_none_runs(runner: Runner, model: Model) -> None:
    wanted = asked(chat_request(n_choices=3), model)

    class Refusing:
        """The third is too many."""

        cancelled: list[int] = []  # noqa: RUF012

        def __init__(self) -> None:
            self.num_submitted = 0

        def submit(self, *args: Any, **how: Any) -> int:
            self.num_submitted += 1
            if self.num_submitted == 3:
                raise RuntimeError("too many")
            return self.num_submitted

        def cancel(self, request: int) -> None:
            self.cancelled.append(request)

    engine: Any = Refusing()
    with pytest.raises(RuntimeError, match="too many"):
        Drawing(engine, wanted)
    assert engine.cancelled == [1, 2]
