"""What a real model says under grammars that hypothesis makes up, many at once, with and without guesses."""

from __future__ import annotations

import json
import queue
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import jsonschema
import pytest
from grammar_strategies import FORMATS_CHECKED, Json, Regex, examples

from mistralrs_onnx.model import LoadOptions, Model, load
from mistralrs_onnx.runtime.engine import EngineOptions, Output
from mistralrs_onnx.runtime.grammar.spec import make_spec
from mistralrs_onnx.runtime.package import Package
from mistralrs_onnx.runtime.sampling import SamplingParams
from mistralrs_onnx.speculate import SpeculateOptions

PROMPTS = ("Some data:\n", "An example: ", "{", "The answer is ")
LIMITS = EngineOptions(max_seqs=16, max_model_len=256)
GUARD = 240


class Answer(NamedTuple):
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str


@pytest.fixture(scope="module")
def models(smollm2: Package) -> Iterator[tuple[Model, Model]]:
    """Without guesses and with as many as there can be."""
    guessing = SpeculateOptions("lookup", gamma=8, adaptive=False)
    with (
        load(smollm2.path, LoadOptions(LIMITS)) as plain,
        load(smollm2.path, LoadOptions(LIMITS, speculate=guessing)) as lookup,
    ):
        yield plain, lookup


def answers(model: Model, kind: str, values: list[Any], max_tokens: int) -> list[Answer]:
    """At temperature 1, each with its own seed."""
    boxes: list[queue.SimpleQueue[Output]] = [queue.SimpleQueue() for _ in values]
    for i, (value, box) in enumerate(zip(values, boxes, strict=True)):
        prompt = model.encode(PROMPTS[i % len(PROMPTS)])
        params = SamplingParams(temperature=1.0, seed=i, max_tokens=max_tokens)
        model.engine.submit(prompt, params, box.put, grammar=model.grammar(make_spec(kind, value)))
    return [answer_in(box) for box in boxes]


def answer_in(box: queue.SimpleQueue[Output]) -> Answer:
    text, token_ids = "", ()
    while True:
        output = box.get(timeout=GUARD)
        assert output.error is None
        text, token_ids = text + output.text, token_ids + output.token_ids
        if output.finish_reason is not None:
            return Answer(text, token_ids, output.finish_reason)


def check(models: tuple[Model, Model], kind: str, values: list[Any]) -> list[tuple[Any, str]]:
    """Values and finished texts."""
    plain, lookup = models
    max_tokens = 120 if len(values) > 50 else 24
    found = answers(plain, kind, values, max_tokens)
    assert answers(lookup, kind, values, max_tokens) == found, "guesses change no token"
    stats = lookup.engine.stats()
    assert 0 < stats.accepted_tokens < stats.draft_tokens
    assert all(answer.finish_reason in ("stop", "length") for answer in found)
    finished = [
        (value, answer.text) for value, answer in zip(values, found, strict=True) if answer.finish_reason == "stop"
    ]
    assert len(finished) >= len(values) / 3
    return finished


def check_schemas(models: tuple[Model, Model], count: int) -> None:
    for schema, text in check(models, "json_schema", examples(Json, count)):
        jsonschema.validate(json.loads(text), schema, format_checker=FORMATS_CHECKED)


def check_regexes(models: tuple[Model, Model], count: int) -> None:
    for pattern, text in check(models, "regex", examples(Regex, count)):
        assert re.fullmatch(pattern, text, re.DOTALL)


def test_schemas(models: tuple[Model, Model]) -> None:
    check_schemas(models, 6)


def test_regexes(models: tuple[Model, Model]) -> None:
    check_regexes(models, 8)


@pytest.mark.full
@pytest.mark.timeout(900)
def test_300_schemas(models: tuple[Model, Model]) -> None:
    check_schemas(models, 300)


@pytest.mark.full
@pytest.mark.timeout(900)
def test_100_regexes(models: tuple[Model, Model]) -> None:
    check_regexes(models, 100)
