from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from mistralrs_onnx.compiler.checkpoints.metadata import Metadata
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.tokenizer.gguf import special_ids, tokenizer_files
from mistralrs_onnx.compiler.tokenizer.sentencepiece import score_merges
from mistralrs_onnx.compiler.tokenizer.vocabulary import BYTE, CONTROL, NORMAL, UNKNOWN, USER_DEFINED, Vocabulary

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
FIRST = 3 + 256  # the id of the first token that is neither special nor a byte
WORDS = [
    "▁",
    "h",
    "e",
    "l",
    "o",
    "w",
    "r",
    "d",
    "lo",
    "he",
    "▁w",
    "llo",
    "hello",
    "▁hello",
    "▁wo",
    "ld",
    "rld",
    "▁world",
]
HELLO, A_HELLO, WORLD = (FIRST + WORDS.index(word) for word in ("hello", "▁hello", "▁world"))


def spm(words: list[str] = WORDS, user_defined: tuple[str, ...] = ("  ", "<tool>"), **changes: Any) -> Metadata:
    """Words get falling scores. `spm(add_space_prefix=...)` sets that key; None takes it away."""
    tokens = ["<unk>", "<s>", "</s>", *BYTES, *words, *user_defined]
    types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, *[NORMAL] * len(words), *[USER_DEFINED] * len(user_defined)]
    values = {
        "general.architecture": "llama",
        "llama.context_length": 64,
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array(types, np.int32),
        "tokenizer.ggml.scores": np.array([0.0] * FIRST + [-float(i) for i in range(len(tokens) - FIRST)], np.float32),
    }
    values |= {key if "." in key else f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    return Metadata({key: value for key, value in values.items() if value is not None})


def load(metadata: Metadata) -> Tokenizer:
    return Tokenizer.from_str(tokenizer_files(metadata)["tokenizer.json"].decode())


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return load(spm())


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("hello", [A_HELLO]),
        ("hello world", [A_HELLO, WORLD]),
        ("  hello", [FIRST + len(WORDS), A_HELLO]),  # two spaces are a token; what follows it gets a third
        ("hello<tool>hello", [A_HELLO, FIRST + len(WORDS) + 1, A_HELLO]),
        ("hello</s>", [A_HELLO, 2]),
        ("", []),
    ],
)
def test_spaces_and_added_tokens(tokenizer: Tokenizer, text: str, ids: list[int]) -> None:
    assert tokenizer.encode(text, add_special_tokens=False).ids == ids


def test_characters_without_token_become_their_bytes(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("hello é🚀", add_special_tokens=False).ids
    assert ids == [A_HELLO, FIRST, *(3 + byte for byte in "é🚀".encode())]
    assert tokenizer.decode(ids) == "hello é🚀"


def test_prompts_begin_with_bos_unless_the_file_says_otherwise(tokenizer: Tokenizer) -> None:
    assert tokenizer.encode("hello").ids == [1, A_HELLO]
    assert load(spm(add_bos_token=False, add_eos_token=True)).encode("hello").ids == [A_HELLO, 2]


def test_without_prefix_the_first_word_has_no_space() -> None:
    tokenizer = load(spm(add_space_prefix=False))
    ids = tokenizer.encode("hello world", add_special_tokens=False).ids
    assert ids == [HELLO, WORLD]
    assert tokenizer.decode([A_HELLO, WORLD]) == " hello world"


def test_control_text_can_be_plain(tokenizer: Tokenizer) -> None:
    plain = load(spm())
    plain.encode_special_tokens = True
    assert plain.encode("</s>", add_special_tokens=False).ids == [FIRST, *(3 + byte for byte in b"</s>")]


def test_roles_are_those_of_llama_where_the_file_is_silent() -> None:
    assert special_ids(spm()) == (1, (2,), None)
    assert special_ids(spm(bos_token_id=2, eos_token_id=1, padding_token_id=0)) == (2, (1,), 0)
    assert json.loads(tokenizer_files(spm())["special_tokens_map.json"]) == {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
    }


def test_phi3_drops_white_space_after_its_added_tokens() -> None:
    metadata = spm(user_defined=("<tool>",), **{"general.name": "Phi-3 Mini"})
    assert load(metadata).encode("<tool> \n hello", add_special_tokens=False).ids == [FIRST + len(WORDS), A_HELLO]


def test_a_vocabulary_may_bring_its_merges() -> None:
    merges = ["l o", "h e", "▁ w", "l lo", "he llo"]
    tokenizer = load(spm(model="gemma4", merges=merges, scores=None, bos_token_id=1, eos_token_id=2))
    assert tokenizer.encode("hello w").ids == [1, HELLO, FIRST + WORDS.index("▁w")]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: spm(remove_extra_whitespaces=True), "remove_extra_whitespaces is not supported"),
        (lambda: spm(scores=None), "tokenizer.ggml.scores must be an array of numbers"),
        (lambda: spm(scores=np.array([1.0])), "need one score each: got 1 for 279 tokens"),
        (lambda: spm(scores=np.full(279, np.nan)), "must be numbers, got NaN"),
        (lambda: spm([*WORDS, "x" * 513]), "at most 512 characters, got 513: 'xxx"),
        (lambda: spm(user_defined=("hello", "x")), "distinct, got 'hello' twice"),
    ],
)
def test_what_cannot_be_rebuilt_is_named(build: Callable[[], Metadata], message: str) -> None:
    with pytest.raises(CompileError, match=message):
        tokenizer_files(build())


def test_only_byte_level_tokenizers_have_pre_tokenizers() -> None:
    with pytest.raises(CompileError, match="'llama' has no pre-tokenizer, got the name 'qwen2'"):
        tokenizer_files(spm(), pre="qwen2")


def best_pairs(text: str, scores: Mapping[str, float]) -> list[str]:
    """The definition: join the two neighbours that make the token of the highest score, the leftmost first."""
    parts = list(text)
    while True:
        pairs = [(-scores[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in scores]
        if not pairs:
            return parts
        i = min(pairs)[1]
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


@pytest.mark.parametrize("seed", range(20))
def test_merges_by_score_on_random_vocabularies(seed: int) -> None:
    """`tokenizers` breaks ties between ways to make one token by rank, the definition by place: no such ties here."""
    rng = random.Random(seed)
    words = {"".join(rng.choices("abcd", k=rng.randint(2, 6))) for _ in range(120)}
    tokens = [*"abcd", *rng.sample(sorted(words), len(words))]
    scores = dict(zip(tokens, rng.sample(range(1000), len(tokens)), strict=True))
    vocabulary = Vocabulary(tokens, [NORMAL] * len(tokens), {})
    merges = [tuple(merge.split(" ")) for merge in score_merges(vocabulary, list(scores.values()))]
    assert {a + b for a, b in merges} <= set(tokens)
    tokenizer = Tokenizer.from_str(json.dumps({"model": {"type": "BPE", "vocab": vocabulary.ids, "merges": merges}}))
    for _ in range(100):
        text = "".join(rng.choices("abcd", k=rng.randint(1, 30)))
        assert tokenizer.encode(text).tokens == best_pairs(text, scores), text
