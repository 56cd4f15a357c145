"""lm-eval itself, asking a server as it asks any other, against lm-eval with transformers on the same weights."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from likelihood_tasks import TASKS

from mistralrs_onnx.model import LoadOptions, load
from mistralrs_onnx.runtime.engine import EngineOptions
from mistralrs_onnx.runtime.package import Package
from mistralrs_onnx.server.lifecycle import Server, ServerOptions

pytestmark = [pytest.mark.oracle, pytest.mark.timeout(900)]

GUARD = 120.0
TASK = """
task: small
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{context}}}}"
doc_to_choice: endings
doc_to_target: 0
target_delimiter: ""
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
"""


class Evaluation(NamedTuple):
    """Accuracy, and of every continuation its log likelihood in nats and whether each token was the likeliest."""

    accuracy: float
    likelihoods: list[tuple[float, bool]]


@pytest.fixture(scope="module")
def task_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tasks")
    lines = [json.dumps({"context": context, "endings": endings}) for context, *endings in TASKS]
    (folder / "small.jsonl").write_text("\n".join(lines))
    (folder / "small.yaml").write_text(TASK.format(data=folder / "small.jsonl"))
    return folder


def evaluate(folder: Path, backend: str, **model_args: Any) -> Evaluation:
    lm_eval: Any = pytest.importorskip("lm_eval")
    tasks: Any = pytest.importorskip("lm_eval.tasks")
    found = lm_eval.simple_evaluate(
        model=backend,
        model_args=model_args,
        tasks=["small"],
        task_manager=tasks.TaskManager(include_path=str(folder), include_defaults=False),
        bootstrap_iters=0,
    )
    pairs = [
        (float(total), bool(greedy)) for sample in found["samples"]["small"] for [(total, greedy)] in sample["resps"]
    ]
    return Evaluation(found["results"]["small"]["acc,none"], pairs)


@pytest.fixture(scope="module")
def expected(task_folder: Path, smollm2_gguf: Path) -> Evaluation:
    pytest.importorskip("torch")
    return evaluate(
        task_folder,
        "hf",
        pretrained=str(smollm2_gguf.parent),
        gguf_file=smollm2_gguf.name,
        dtype="float32",
        device="cpu",
        batch_size=1,
    )


@contextmanager
def served(path: Path) -> Iterator[str]:
    ready = threading.Event()
    model = load(path, LoadOptions(EngineOptions(max_seqs=8, max_model_len=256)))
    server = Server(lambda: model, ServerOptions(port=0), lambda _: ready.set())
    thread = threading.Thread(target=server.run)
    thread.start()
    assert ready.wait(GUARD)
    try:
        yield server.url
    finally:
        server.stop()
        thread.join(GUARD)


def evaluate_served(folder: Path, path: Path) -> Evaluation:
    with served(path) as url:
        return evaluate(
            folder,
            "local-completions",
            base_url=f"{url}/v1/completions",
            model="default",
            tokenizer_backend="huggingface",
            tokenizer=str(path),
            num_concurrent=4,
            max_length=256,
        )


def differences(one: Evaluation, other: Evaluation) -> list[float]:
    return [abs(a - b) for (a, _), (b, _) in zip(one.likelihoods, other.likelihoods, strict=True)]


def test_float_activations(task_folder: Path, expected: Evaluation, smollm2_float32: Package) -> None:
    found = evaluate_served(task_folder, smollm2_float32.path)
    print(found.accuracy, max(differences(found, expected)))
    assert max(differences(found, expected)) < 2e-4  # float32 sums in other orders
    assert [greedy for _, greedy in found.likelihoods] == [greedy for _, greedy in expected.likelihoods]
    assert found.accuracy == expected.accuracy > 0.5


def test_int8_activations(task_folder: Path, expected: Evaluation, smollm2: Package) -> None:
    found = evaluate_served(task_folder, smollm2.path)
    print(found.accuracy, np.mean(differences(found, expected)), max(differences(found, expected)))
    assert np.mean(differences(found, expected)) < 0.2  # nats: what int8 activations do, 0.1 seen
    assert found.accuracy == expected.accuracy
