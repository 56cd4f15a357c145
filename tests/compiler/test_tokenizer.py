from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, pre_tokenizers

from mistralrs_onnx.compiler.checkpoints.gguf import read_gguf
from mistralrs_onnx.compiler.checkpoints.metadata import Metadata
from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.tokenizer.gguf import special_ids, tokenizer_files
from mistralrs_onnx.compiler.tokenizer.profiles import find_profile

# Ids that llama.cpp gives with the same file, special text parsed.
LLAMA_CPP = {
    "Hello, world! \n🚀 (normal) 😶‍🌫️ 你好世界！\nNǐ hǎo": "19556 28 905 17 216 198 10813 244 218 365 5472 25 40303 131 "
    "321 231 10813 230 121 31752 216 18645 250 48392 138 7906 240 178 239 230 8083 219 198 62 146 234 294 146 232 95",
    "def f(x):\n    return x + 12345\n\n\n": "1604 275 24 104 727 472 1003 1792 1232 216 33 34 35 36 37 16506",
    "I'll don't WE'VE  3.14 ½": "57 3060 1326 982 26587 23 18525 256 35 30 33 36 216 16738",
    "<|im_start|>user\nhi<|im_end|>\n": "1 4093 198 6004 2 198",
    " \u00a0\u3000\u0085\r x": "3351 250 12109 218 141 223 201 1792",
    "#\x04#": "19 19",
}


@pytest.fixture(scope="module")
def smollm2(smollm2_gguf: Path) -> Metadata:
    with read_gguf(smollm2_gguf) as gguf:
        return gguf.metadata


@pytest.fixture(scope="module")
def tokenizer(smollm2: Metadata) -> Tokenizer:
    return Tokenizer.from_str(tokenizer_files(smollm2)["tokenizer.json"].decode())


@pytest.mark.parametrize("text", LLAMA_CPP)
def test_smollm2_gives_the_ids_of_llama_cpp(tokenizer: Tokenizer, text: str) -> None:
    ids = tokenizer.encode(text).ids
    assert ids == [int(token) for token in LLAMA_CPP[text].split()]
    assert tokenizer.decode(ids, skip_special_tokens=False) == text.replace("\x04", "")


def test_special_text_can_be_plain(smollm2: Metadata) -> None:
    tokenizer = Tokenizer.from_str(tokenizer_files(smollm2)["tokenizer.json"].decode())
    tokenizer.encode_special_tokens = True
    ids = tokenizer.encode("<|im_start|>user\nhi<|im_end|>\n").ids
    assert ids == [44, 108, 306, 79, 3738, 108, 46, 4093, 198, 6004, 44, 108, 306, 79, 486, 108, 46, 198]


def test_files_for_other_programs(smollm2: Metadata) -> None:
    files = tokenizer_files(smollm2)
    config = json.loads(files["tokenizer_config.json"])
    assert config.pop("chat_template").encode() == files["chat_template.jinja"]
    assert config == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "unk_token": "<|endoftext|>",
        "pad_token": "<|im_end|>",
        "add_bos_token": False,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 8192,
    }
    assert json.loads(files["special_tokens_map.json"])["eos_token"] == "<|im_end|>"
    assert tokenizer_files(smollm2) == files
    assert special_ids(smollm2) == (1, (2,), 2)


TOY = {
    "general.architecture": "llama",
    "llama.context_length": 64,
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "gpt-2",
    "tokenizer.ggml.tokens": ["<eos>", "a", "b", "ab", "<|eot_id|>", "<|im_end|>", "[tool]", "1", "abab"],
    "tokenizer.ggml.token_type": np.array([3, 1, 1, 1, 3, 1, 4, 1, 1], np.int32),
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.eos_token_id": 0,
}


def toy(**changes: Any) -> Metadata:
    """`toy(pre=...)` sets tokenizer.ggml.pre; None takes the key away."""
    values = TOY | {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    return Metadata({key: value for key, value in values.items() if value is not None})


def encode(metadata: Metadata, text: str) -> list[int]:
    return list(Tokenizer.from_str(tokenizer_files(metadata)["tokenizer.json"].decode()).encode(text).ids)


@pytest.mark.parametrize(("pre", "ids"), [("qwen2", [3, 3]), ("llama-bpe", [8])])
def test_only_some_profiles_keep_words_that_are_tokens(pre: str, ids: list[int]) -> None:
    assert encode(toy(pre=pre, add_bos_token=False), "abab") == ids


def test_user_defined_tokens_are_found_but_not_special(tokenizer: Tokenizer) -> None:
    tool = json.loads(tokenizer_files(toy())["tokenizer.json"])["added_tokens"][-1]
    assert (tool["content"], tool["special"]) == ("[tool]", False)
    assert encode(toy(), "a[tool]b") == [1, 6, 2]
    assert not tokenizer.get_added_tokens_decoder()[0].normalized


@pytest.mark.parametrize(
    ("flags", "ids"),
    [
        ({}, [3]),
        ({"add_bos_token": True, "bos_token_id": 4}, [4, 3]),
        ({"add_bos_token": True, "bos_token_id": 4, "add_eos_token": True}, [4, 3, 0]),
        ({"pre": "llama-bpe", "bos_token_id": 4}, [4, 3]),
    ],
)
def test_begin_and_end_are_put_where_the_file_says(flags: dict[str, Any], ids: list[int]) -> None:
    assert encode(toy(**flags), "ab") == ids


def test_ends_of_turn_join_the_end_that_is_named() -> None:
    assert special_ids(toy()).eos == (0, 4)  # <|im_end|> is here, but as an ordinary token
    assert special_ids(toy(eos_token_id=None, eot_token_id=7)).eos == (7, 4)
    assert special_ids(toy(eom_token_id=2)).eos == (0, 2, 4)


def test_an_end_of_message_is_no_end_of_reply() -> None:
    tokens = ["<|return|>", "<|call|>", "<|end|>"]
    reply = toy(tokens=tokens, token_type=np.array([3, 3, 3]), merges=[])
    assert special_ids(reply).eos == (0, 1)
    reply = toy(tokens=["</s>", "<|call|>", "<|end|>"], token_type=np.array([3, 3, 3]), merges=[])
    assert special_ids(reply).eos == (0, 2, 1)


def test_the_pre_tokenizer_can_be_said() -> None:
    for metadata in (toy(), toy(pre=None), toy(pre="unheard of")):
        tokenizer = Tokenizer.from_str(tokenizer_files(metadata, pre="glm4")["tokenizer.json"].decode())
        assert tokenizer.encode("abab", add_special_tokens=False).ids == [8]


# Worked out by hand.
TEXT = "I'LL 12345 éCole,\n  XMLHttp 你好abc!?"
WORDS = {
    "gpt-2": "I|'|LL| 12345| éCole|,|\n | XMLHttp| 你好abc|!?",
    "starcoder": "I|'|LL| |1|2|3|4|5| éCole|,|\n | XMLHttp| 你好abc|!?",
    "llama-bpe": "I|'LL| |123|45| éCole|,\n| | XMLHttp| 你好abc|!?",
    "qwen2": "I|'LL| |1|2|3|4|5| éCole|,\n| | XMLHttp| 你好abc|!?",
    "gpt-4o": "I'LL| |123|45| é|Cole|,\n| | XMLHttp| 你好abc|!?",
    "tekken": "I|'LL| |1|2|3|4|5| é|Cole|,\n| | XMLHttp| 你好abc|!?",
    "deepseek-llm": "I|'|LL| |12345| é|Cole|,|\n| | XMLHttp| |你好|abc|!?",  # its signs include ASCII letters
    "deepseek-coder": "I|'|LL| |1|2|3|4|5| éCole|,|\n| | XMLHttp| |你好|abc|!?",
    "deepseek-v3": "I|'LL| |123|45| éCole|,\n| | XMLHttp| |你好|abc|!?",
    "falcon": "I|'|LL| |123|45| éCole|,|\n | XMLHttp| 你好abc|!?",
    "bloom": "I'LL| 12345| éCole|,\n | XMLHttp| 你好abc|!?",
}


@pytest.mark.parametrize("name", WORDS)
def test_words(name: str) -> None:
    words = [TEXT]
    for regex in find_profile(name).splits:
        cut = pre_tokenizers.Split(Regex(regex), "isolated")
        words = [word for part in words for word, _ in cut.pre_tokenize_str(part)]
    assert words == WORDS[name].split("|")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: toy(model="bert"), "tokenizer model 'bert' is not supported yet, only gpt2, llama, gemma4"),
        (lambda: toy(pre="smolm"), "'smolm' is not known, only .*; the nearest is smollm"),
        (lambda: toy(pre=None), "lacks metadata key tokenizer.ggml.pre, .*: say it with --pre"),
        (lambda: toy(tokens=["a", "a"], token_type=np.array([1, 1])), "distinct, got 'a' twice"),
        (lambda: toy(token_type=np.array([1])), "must have 9 entries, one a token, got 1"),
        (lambda: toy(eos_token_id=9), "eos_token_id must be below 9"),
        (lambda: toy(merges=["a b", "a x"]), r"merges\[1\] must join two tokens into a third, got 'a x'"),
        (lambda: toy(add_bos_token=True), "add_bos_token is set, but tokenizer.ggml.bos_token_id is missing"),
        (
            lambda: toy(tokens=["a"], token_type=np.array([1]), merges=[], eos_token_id=None),
            "nothing would end a reply",
        ),
    ],
)
def test_what_cannot_be_rebuilt_is_named(build: Callable[[], Metadata], message: str) -> None:
    with pytest.raises(CompileError, match=message):
        tokenizer_files(build())


def test_a_name_like_no_other_gets_no_hint() -> None:
    with pytest.raises(CompileError, match=r"viking$"):
        find_profile("xyz")
