from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer

from mistralrs_onnx.compiler.checkpoint import Reading, open_gguf
from mistralrs_onnx.tools.benching.http_prompts import WORDS, random_prompts, read_prompts, sample


def test_random_prompts_are_the_same_for_a_seed() -> None:
    prompts = random_prompts(3, 20, seed=1)
    assert prompts == random_prompts(3, 20, seed=1) != random_prompts(3, 20, seed=2)
    assert all(len(prompt.split(" ")) == 20 and set(prompt.split(" ")) <= set(WORDS) for prompt in prompts)
    assert len(set(prompts)) == 3


def test_words_are_one_token_each_in_a_real_vocabulary(smollm2_gguf: Path) -> None:
    with open_gguf(smollm2_gguf, Reading()) as checkpoint:
        vocab = set(Tokenizer.from_buffer(checkpoint.tokenizer().files["tokenizer.json"]).get_vocab())
    assert [word for word in WORDS if f"Ġ{word}" not in vocab] == []


def test_a_line_is_a_string_or_an_object(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('"one"\n\n{"prompt": "two\\nlines", "other": 1}\n')
    assert read_prompts(file) == ["one", "two\nlines"]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("\n", "is empty: write a prompt a line"),
        ('"one"\nplain words\n', "line 2: this is no JSON"),
        ('{"text": "one"}\n', "line 1: a line must be a JSON string or an object with"),
        ("[1]\n", "line 1: a line must be"),
    ],
)
def test_lines_that_are_no_prompts(tmp_path: Path, content: str, complaint: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(content)
    with pytest.raises(ValueError, match=complaint):
        read_prompts(file)


def test_prompts_come_again_only_when_all_were_used() -> None:
    drawn = sample(["a", "b", "c"], 7, seed=0)
    assert sorted(drawn[:3]) == sorted(drawn[3:6]) == ["a", "b", "c"]
    assert len(drawn) == 7
    assert drawn == sample(["a", "b", "c"], 7, seed=0)
