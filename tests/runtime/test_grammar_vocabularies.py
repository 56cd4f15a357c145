"""Masks over vocabularies of 150,000 and 262,000 tokens, byte-level and SentencePiece, and how long they take."""

from __future__ import annotations

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grammar_strategies import Json, Regex, examples
from grammar_walks import Walk, allowed
from tokenizers import Tokenizer
from yacc_grammars import C_LIKE, PROGRAM

from mistralrs_onnx.compiler.checkpoints.gguf import read_gguf
from mistralrs_onnx.compiler.tokenizer.gguf import tokenizer_files
from mistralrs_onnx.runtime.grammar.compiler import Grammar, GrammarCompiler
from mistralrs_onnx.runtime.grammar.masks import MaskJob, MaskWorker
from mistralrs_onnx.runtime.grammar.matcher import allows
from mistralrs_onnx.runtime.grammar.spec import GrammarSpec, make_spec

pytestmark = pytest.mark.full

FOLDER = Path(os.environ.get("MISTRALRS_TEST_MODELS") or Path.home() / ".cache" / "mistralrs-onnx-test-models")
FILES = {"qwen2": "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf", "gemma3": "gemma-3-270m.Q4_K_M.gguf"}
ADDRESS = {
    "type": "object",
    "properties": {"street": {"type": "string"}, "zip": {"type": "string", "pattern": "^[0-9]{5}$"}},
    "required": ["street", "zip"],
    "additionalProperties": False,
}
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "tags": {"type": "array", "items": {"type": "string"}, "maxItems": 5},
        "address": ADDRESS,
    },
    "required": ["name", "age", "tags", "address"],
    "additionalProperties": False,
}
VALUE = {"name": "Ada Lovelace", "age": 36, "tags": ["mathematics", "first programmer, they say"],
         "address": {"street": "12 St. James's Square, London", "zip": "12345"}}  # fmt: skip


@pytest.fixture(scope="module", params=FILES)
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    path = FOLDER / FILES[request.param]
    if not path.is_file():
        pytest.skip(f"needs {path}: set MISTRALRS_TEST_MODELS to a folder that has it")
    return Tokenizer.from_str(tokenizer_files(read_gguf(path).metadata)["tokenizer.json"].decode())


@pytest.fixture(scope="module")
def compiler(tokenizer: Tokenizer) -> GrammarCompiler:
    end = next(i for name in ("<|im_end|>", "<eos>") if (i := tokenizer.token_to_id(name)) is not None)
    return GrammarCompiler(tokenizer, tokenizer.get_vocab_size(), [end])


def test_walks_validate(compiler: GrammarCompiler, tokenizer: Tokenizer) -> None:
    grammar, num_whole = compiler.compile(make_spec("regex", r"(foo| bar|é)+[0-9]{3}\n")), 0
    for seed in range(10):
        walk = Walk(grammar, tokenizer, seed)
        text = compiler.prepare().decode_str(walk.token_ids)
        num_whole += walk.is_whole
        assert not walk.is_whole or re.fullmatch(r"(foo| bar|é)+[0-9]{3}\n", text)
    assert num_whole


def grammars() -> dict[str, tuple[GrammarSpec, str]]:
    return {
        "schema": (make_spec("json_schema", PERSON), json.dumps(VALUE)),
        "json_object": (make_spec("json_object", ""), json.dumps(VALUE, indent=2)),
        "regex": (make_spec("regex", r"[A-Z][a-z ,]{20,200}\."), "The quick brown fox jumps over the lazy dog."),
        "yacc": (make_spec("yacc", C_LIKE), PROGRAM),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["schema", "json_object", "regex", "yacc"])
def test_masks_let_a_text_pass(compiler: GrammarCompiler, name: str) -> None:
    """Along a plausible output, as a model would write it; prints the time of a mask and of accepting a token."""
    spec, text = grammars()[name]
    matcher, fills, accepts = compiler.compile(spec).matcher(), [], []
    for token_id in compiler.prepare().tokenize_str(text):
        start = time.perf_counter()
        mask = matcher.mask()
        fills.append(time.perf_counter() - start)
        assert allows(mask, token_id) or matcher.validate([token_id])
        start = time.perf_counter()
        matcher.accept([token_id])
        accepts.append(time.perf_counter() - start)
    assert matcher.can_end
    print_times(name, compiler.prepare().vocab_size, fills, accepts)


def print_times(name: str, vocab_size: int, fills: list[float], accepts: list[float]) -> None:
    fill = 1e6 * np.array(fills)
    times = f"median {np.median(fill):.0f}, mean {fill.mean():.0f}, largest {fill.max():.0f} µs"
    print(f"\n{name}, {vocab_size} tokens: mask {times}; accept median {1e6 * np.median(accepts):.0f} µs")


@pytest.mark.timeout(600)
@pytest.mark.parametrize(("kind", "values"), [("json_schema", examples(Json, 300)), ("regex", examples(Regex, 100))])
def test_masks_of_generated_grammars(compiler: GrammarCompiler, kind: str, values: list[Any]) -> None:
    """Each on its way to an end or to 60 tokens, with a lexer that has learned nothing; prints the time of a mask."""
    fills: list[float] = []
    for seed, value in enumerate(values):
        fills += walk_times(compiler.compile(make_spec(kind, value)), seed)
    fill = 1e6 * np.array(fills)
    times = f"mean {fill.mean():.0f}, median {np.median(fill):.0f}, 95th percentile {np.percentile(fill, 95):.0f} µs"
    print(f"\n{len(values)} of {kind}, {compiler.prepare().vocab_size} tokens: {len(fill)} masks, {times}")
    assert len(fill) > 3 * len(values)


def walk_times(grammar: Grammar, seed: int) -> list[float]:
    """Processor seconds of each mask. The lower ids, which are frequent, are drawn rather, and ends if nothing else."""
    matcher, rng, times = grammar.matcher(), np.random.default_rng(seed), []
    while not (matcher.is_finished or matcher.has_ended) and len(times) < 60:
        start = time.thread_time()
        mask = matcher.mask()
        times.append(time.thread_time() - start)
        choices = allowed(mask)
        chances = np.where(np.isin(choices, grammar.eos_token_ids), 1e-9, 1 / (1 + choices))
        matcher.accept([int(rng.choice(choices, p=chances / chances.sum()))])
    return times


def test_masks_of_sixteen(compiler: GrammarCompiler) -> None:
    """Requests at different places of one grammar; prints the time of a batch, with one thread and with two."""
    spec, text = grammars()["schema"]
    token_ids = compiler.prepare().tokenize_str(text)
    for num_threads in (1, 2):
        worker = MaskWorker(compiler.prepare().vocab_size, num_threads)
        jobs = [MaskJob(compiler.compile(spec).matcher()) for _ in range(16)]
        for i, job in enumerate(jobs):
            job.matcher.accept(token_ids[: 2 * i])
        expected = [job.matcher.mask().copy() for job in jobs]
        times = []
        for _ in range(20):
            start = time.perf_counter()
            worker.begin(jobs)
            found = worker.wait()
            times.append(time.perf_counter() - start)
        assert all((mask[0] == row).all() for mask, row in zip(found, expected, strict=True))
        print(f"\n16 masks, {num_threads} threads: median {1e6 * np.median(times):.0f} µs")
        worker.close()
