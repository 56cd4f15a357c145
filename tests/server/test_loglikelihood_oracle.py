"""Log likelihoods over HTTP, asked for as by lm-eval's local-completions, against transformers on the same weights."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from likelihood_tasks import TASKS
from openai import OpenAI

from mistralrs_onnx.model import LoadOptions, Model, load
from mistralrs_onnx.runtime.engine import EngineOptions
from mistralrs_onnx.runtime.package import Package
from mistralrs_onnx.server.lifecycle import Server, ServerOptions

pytestmark = [pytest.mark.oracle, pytest.mark.timeout(600)]

GUARD = 120.0


class Likelihood(NamedTuple):
    """Of a continuation: the sum of its log probabilities, and whether each token was the likeliest."""

    total: float
    is_greedy: bool


class Item(NamedTuple):
    context: list[int]
    continuation: list[int]


def items(model: Model) -> list[Item]:
    """Encoded as lm-eval does: the continuation is what the whole has beyond the context."""
    found = []
    for context, *endings in TASKS:
        for ending in endings:
            head, whole = model.encode(context, special=False), model.encode(context + ending, special=False)
            found.append(Item(head, whole[len(head) :]))
    return found


@contextmanager
def served(path: Path) -> Iterator[tuple[OpenAI, Model]]:
    ready = threading.Event()
    model = load(path, LoadOptions(EngineOptions(max_seqs=8, max_model_len=128)))
    server = Server(lambda: model, ServerOptions(port=0), lambda _: ready.set())
    thread = threading.Thread(target=server.run)
    thread.start()
    assert ready.wait(GUARD)
    try:
        with OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=GUARD) as client:
            yield client, model
    finally:
        server.stop()
        thread.join(GUARD)


def ask(client: OpenAI, asked: list[Item]) -> list[Likelihood]:
    """The body, and what is read of the answer, of lm-eval 0.4: lm_eval/models/openai_completions.py."""
    found = []
    for start in range(0, len(asked), 16):
        batch = asked[start : start + 16]
        prompts = [item.context + item.continuation for item in batch]
        answer = client.completions.create(
            model="default", prompt=prompts, temperature=0, max_tokens=1, logprobs=1, seed=1234, echo=True
        )
        for choice, item in zip(answer.choices, batch, strict=True):
            told, length = choice.logprobs, len(item.context)
            assert told is not None
            logprobs, tops = told.token_logprobs or [], told.top_logprobs or []
            pairs = zip(logprobs[length:-1], tops[length:-1], strict=True)
            is_greedy = all(logprob == max(top.values()) for logprob, top in pairs)
            found.append(Likelihood(sum(logprobs[length:-1]), is_greedy))
    return found


@pytest.fixture(scope="module")
def expected(smollm2_gguf: Path, smollm2: Package, tmp_path_factory: pytest.TempPathFactory) -> list[Likelihood]:
    torch: Any = pytest.importorskip("torch")
    transformers: Any = pytest.importorskip("transformers")
    oracle: Any = transformers.AutoModelForCausalLM.from_pretrained(
        smollm2_gguf.parent, gguf_file=smollm2_gguf.name, dtype=torch.float32, attn_implementation="eager"
    )
    found = []
    with load(smollm2.path, LoadOptions(EngineOptions(max_seqs=1, max_model_len=128))) as model, torch.no_grad():
        for context, continuation in items(model):
            logits = oracle(torch.tensor([context + continuation])).logits[0].double()
            rows = torch.log_softmax(logits, -1)[len(context) - 1 : -1]
            ids = torch.tensor(continuation)
            total = rows.gather(1, ids[:, None]).sum().item()
            found.append(Likelihood(total, bool((rows.argmax(-1) == ids).all())))
    return found


def accuracy(found: list[Likelihood]) -> float:
    totals = np.array([each.total for each in found]).reshape(len(TASKS), -1)
    return float((totals.argmax(1) == 0).mean())


def test_with_float_activations_they_are_the_same(expected: list[Likelihood], smollm2_float32: Package) -> None:
    with served(smollm2_float32.path) as (client, model):
        got = ask(client, items(model))
    differences = [abs(a.total - b.total) for a, b in zip(got, expected, strict=True)]
    assert max(differences) < 2e-4  # float32 sums in other orders; 2.5e-5 was seen
    assert [each.is_greedy for each in got] == [each.is_greedy for each in expected]
    assert accuracy(got) == accuracy(expected) > 0.5


def test_int8_activations_change_them_little(expected: list[Likelihood], smollm2: Package) -> None:
    with served(smollm2.path) as (client, model):
        got = ask(client, items(model))
    differences = [abs(a.total - b.total) for a, b in zip(got, expected, strict=True)]
    assert np.mean(differences) < 0.2  # nats; 0.1 were seen, 0.35 at most
    assert accuracy(got) == accuracy(expected)
