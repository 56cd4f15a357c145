"""Speculation on the real model: a good draft, a bad one, and its own text, all token for token as without."""

from __future__ import annotations

from pathlib import Path

import pytest
from golden import read_golden
from tiny_models import Described, write_folder

from mistralrs_onnx.compiler.checkpoint import Reading
from mistralrs_onnx.compiler.compile import CompileOptions, compile_folder
from mistralrs_onnx.model import LoadOptions, Model, load
from mistralrs_onnx.runtime.engine import EngineOptions
from mistralrs_onnx.runtime.errors import PackageError
from mistralrs_onnx.runtime.package import Package
from mistralrs_onnx.runtime.sampling import SamplingParams
from mistralrs_onnx.speculate import SpeculateOptions

COPY = "Repeat exactly: def area(width, height):\n    return width * height\n\ndef area(width, height):\n    return"
PLAIN = "The weather in the mountains is often"
LIMITS = EngineOptions(max_seqs=4, max_model_len=512)
PARAMS = [
    SamplingParams(temperature=0, max_tokens=32, ignore_eos=True),
    SamplingParams(seed=3, temperature=0.8, top_p=0.9, max_tokens=32, ignore_eos=True),
]


def answers(model: Model, chosen: list[SamplingParams] = PARAMS) -> list[list[int]]:
    prompts = [model.encode(text) for text in (COPY, PLAIN)]
    return [
        [token_id for output in model.engine.generate(prompt, params) for token_id in output.token_ids]
        for params in chosen
        for prompt in prompts
    ]


@pytest.fixture(scope="module")
def plain(smollm2: Package) -> list[list[int]]:
    with load(smollm2.path, LoadOptions(engine=LIMITS)) as model:
        return answers(model)


@pytest.fixture(scope="module")
def random_draft(smollm2: Package, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One layer of noise with the vocabulary of the real model."""
    folder, vocab_size = tmp_path_factory.mktemp("random-draft"), smollm2.manifest.vocab_size
    tiny = read_golden()["llama-tied"].model
    shapes = {name: shape for name, shape in tiny.shapes.items() if ".layers." not in name or ".layers.0." in name}
    shapes["model.embed_tokens.weight"] = (vocab_size, tiny.config["hidden_size"])
    config = tiny.config | {"vocab_size": vocab_size, "num_hidden_layers": 1, "max_position_embeddings": 512}
    base = write_folder(Described(config, shapes), folder / "base")
    reading = Reading(tokenizer=smollm2.path / "tokenizer.json")
    return compile_folder(base, folder / "package", CompileOptions(reading=reading))


@pytest.mark.parametrize("adaptive", [True, pytest.param(False, marks=pytest.mark.full)])
def test_its_own_text(smollm2: Package, plain: list[list[int]], adaptive: bool) -> None:
    speculate = SpeculateOptions("lookup", gamma=8, adaptive=adaptive)
    with load(smollm2.path, LoadOptions(engine=LIMITS, speculate=speculate)) as model:
        assert answers(model) == plain
        assert 0 < model.engine.stats().accepted_tokens < model.engine.stats().draft_tokens


def test_the_model_itself(smollm2: Package, plain: list[list[int]]) -> None:
    speculate = SpeculateOptions(smollm2.path, gamma=4, adaptive=False)
    with load(smollm2.path, LoadOptions(engine=LIMITS, speculate=speculate)) as model:
        assert answers(model, PARAMS[:1]) == plain[:2]
        greedy = model.engine.stats()
        assert greedy.accepted_tokens > 0.9 * greedy.draft_tokens  # all, but for near ties
        assert answers(model, PARAMS[1:]) == plain[2:]
        both = model.engine.stats()
        # 0.27 to 0.5 with other seeds, for a guess stands as often as its token is drawn; of noise less than 0.1
        assert both.accepted_tokens - greedy.accepted_tokens > 0.2 * (both.draft_tokens - greedy.draft_tokens)


@pytest.mark.full
def test_noise(smollm2: Package, random_draft: Path, plain: list[list[int]]) -> None:
    speculate = SpeculateOptions(random_draft, gamma=3, adaptive=False)
    with load(smollm2.path, LoadOptions(engine=LIMITS, speculate=speculate)) as model:
        assert answers(model) == plain
        stats = model.engine.stats()
        assert stats.accepted_tokens < 0.1 * stats.draft_tokens


def test_another_vocabulary_is_refused(smollm2: Package, tmp_path: Path) -> None:
    model = read_golden()["llama"].model
    draft = compile_folder(write_folder(model, tmp_path / "base"), tmp_path / "draft")
    with pytest.raises(PackageError, match="has another vocabulary than the model"):
        load(smollm2.path, LoadOptions(engine=LIMITS, speculate=SpeculateOptions(draft)))


@pytest.mark.parametrize("gamma", [0, 65])
def test_gamma_has_bounds(gamma: int) -> None:
    with pytest.raises(PackageError, match="gamma must be from 1 to 64"):
        SpeculateOptions("lookup", gamma=gamma)
