from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.tokenizer.folder import folder_files
from mistralrs_onnx.compiler.tokenizer.json_files import MAX_FILE

VOCAB = {"a": 0, "b": 1, "ab": 2}
ADDED = ["<s>", "</s>", "<|im_end|>"]  # ids 3, 4, 5


def token(i: int, content: str) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": i, "content": content, **flags, "special": True}


TOKENIZER = {
    "version": "1.0",
    "added_tokens": [token(i, text) for i, text in enumerate(ADDED, 3)],
    "model": {"type": "BPE", "vocab": VOCAB, "merges": [["a", "b"]]},
}
CONFIG = {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}, "tokenizer_class": "LlamaTokenizer"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path, "tokenizer.json", TOKENIZER)
    write(tmp_path, "tokenizer_config.json", CONFIG)
    return tmp_path


def write(folder: Path, name: str, value: Any) -> None:
    (folder / name).write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")


def test_the_tokenizer_is_taken_as_it_is(folder: Path) -> None:
    files, ids = folder_files(folder)
    assert files["tokenizer.json"] == (folder / "tokenizer.json").read_bytes()
    assert json.loads(files["special_tokens_map.json"]) == {"bos_token": "<s>", "eos_token": "</s>"}
    assert json.loads(files["tokenizer_config.json"]) == CONFIG | {"eos_token": "</s>"}
    assert "chat_template.jinja" not in files
    assert ids == (3, (4, 5), None)


def test_ends_come_from_every_file_the_tokenizers_first(folder: Path) -> None:
    write(folder, "generation_config.json", {"eos_token_id": [2, 4]})
    write(folder, "config.json", {"eos_token_id": 1, "bos_token_id": 0})
    assert folder_files(folder).ids == (3, (4, 2, 1, 5), None)


def test_without_roles_config_json_names_them(folder: Path) -> None:
    (folder / "tokenizer_config.json").unlink()
    write(folder, "config.json", {"eos_token_id": 4, "bos_token_id": 3})
    assert folder_files(folder).ids == (3, (4, 5), None)


def test_a_role_that_the_tokenizer_leaves_out_is_not_filled_from_elsewhere(folder: Path) -> None:
    """Templates of Qwen must not see the bos_token that its config.json has."""
    write(folder, "tokenizer_config.json", CONFIG | {"bos_token": None})
    write(folder, "config.json", {"bos_token_id": 3})
    assert folder_files(folder).ids.bos is None


def test_special_tokens_map_speaks_where_the_config_does_not(folder: Path) -> None:
    write(folder, "tokenizer_config.json", {})
    write(folder, "special_tokens_map.json", {"eos_token": "</s>", "pad_token": "<s>"})
    assert folder_files(folder).ids == (None, (4, 5), 3)


def test_added_tokens_of_the_config_join(folder: Path) -> None:
    decoder = {"6": {"content": "<tool>", "special": False}, "4": {"content": "</s>", "special": True}}
    write(folder, "tokenizer_config.json", CONFIG | {"added_tokens_decoder": decoder})
    content = folder_files(folder).files["tokenizer.json"].decode()
    assert Tokenizer.from_str(content).encode("ab<tool>").ids == [2, 6]


def test_older_folders_list_added_tokens_in_a_file_of_their_own(folder: Path) -> None:
    write(folder, "special_tokens_map.json", {"additional_special_tokens": ["<|end|>"]})
    write(folder, "added_tokens.json", {"<tool>": 6, "<|end|>": 7, "</s>": 4})
    files, ids = folder_files(folder)
    assert ids.eos == (4, 5, 7)
    added = json.loads(files["tokenizer.json"])["added_tokens"][-2:]
    assert [(token["content"], token["special"]) for token in added] == [("<tool>", False), ("<|end|>", True)]


def test_another_tokenizer_for_the_folder(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """A file takes the place of tokenizer.json only; a folder of all that belongs to the tokenizer."""
    write(folder, "generation_config.json", {"eos_token_id": 2})
    other = tmp_path_factory.mktemp("other")
    write(other, "tokenizer.json", TOKENIZER | {"added_tokens": TOKENIZER["added_tokens"][:2]})
    for place in (other, other / "tokenizer.json"):
        write(other, "tokenizer_config.json", {"eos_token": "<s>"})
        files, ids = folder_files(folder, tokenizer=place)
        assert files["tokenizer.json"] == (other / "tokenizer.json").read_bytes()
        assert ids.eos == ((3, 2) if place == other else (4, 2))
    assert folder_files(other / "tokenizer.json").ids.eos == (3,)


def test_prompts_are_never_cut_or_filled_up(folder: Path) -> None:
    cut = {"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    write(folder, "tokenizer.json", TOKENIZER | {"truncation": cut})
    assert Tokenizer.from_str(folder_files(folder).files["tokenizer.json"].decode()).encode("ababab").ids == [2, 2, 2]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"chat_template.jinja": "own file", "tokenizer_config.json": CONFIG | {"chat_template": "c"}}, "own file"),
        ({"tokenizer_config.json": CONFIG | {"chat_template": "in the config"}}, "in the config"),
        (
            {
                "tokenizer_config.json": CONFIG
                | {
                    "chat_template": [
                        {"name": "tool_use", "template": "t"},
                        {"name": "default", "template": "the default"},
                    ]
                }
            },
            "the default",
        ),
        ({"chat_template.json": {"chat_template": "old file"}}, "old file"),
    ],
)
def test_chat_templates(folder: Path, files: dict[str, Any], expected: str) -> None:
    for name, value in files.items():
        write(folder, name, value)
    found = folder_files(folder).files
    assert found["chat_template.jinja"].decode() == expected
    assert json.loads(found["tokenizer_config.json"])["chat_template"] == expected
    assert folder_files(folder, template="given").files["chat_template.jinja"] == b"given"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("tokenizer.json", "{", "tokenizer.json must be JSON"),
        ("tokenizer.json", "[]", "tokenizer.json must hold a JSON object, got list"),
        ("tokenizer.json", {"model": {}}, "tokenizer.json lacks model.vocab"),
        ("tokenizer.json", {"model": {"vocab": {"a": "x"}}}, "must give ids to texts, got 'x' for 'a'"),
        ("tokenizer.json", TOKENIZER | {"added_tokens": 1}, "added_tokens in .* must be a list"),
        ("tokenizer.json", {"model": {"type": "BPE", "vocab": VOCAB, "merges": ["c d"]}}, "no tokenizer that"),
        ("tokenizer_config.json", CONFIG | {"eos_token": "<end>"}, "must be a token, got '<end>'"),
        ("tokenizer_config.json", CONFIG | {"chat_template": 1}, "chat_template in .*tokenizer_config.json must be"),
        ("tokenizer_config.json", CONFIG | {"added_tokens_decoder": {"3": {"content": "x"}}}, "token 3 is '<s>' in"),
        ("tokenizer_config.json", CONFIG | {"added_tokens_decoder": {"x": {}}}, r"added_tokens_decoder\['x'\]"),
        ("tokenizer_config.json", CONFIG | {"added_tokens_decoder": {"9" * 5000: {"content": "x"}}}, "must be an id"),
        ("generation_config.json", {"eos_token_id": 6}, "eos_token_id in .* must name tokens .*, got 6"),
        ("tokenizer_config.json", '{"x":' + "[" * 500 + "]" * 500 + "}", "cannot be written again: Recursion"),
        ("added_tokens.json", {"x": "y"}, "added_tokens.json must give ids to texts"),
        ("config.json", {"eos_token_id": "</s>"}, "eos_token_id in .*config.json must name tokens"),
    ],
)
def test_bad_files_are_named(folder: Path, name: str, value: Any, message: str) -> None:
    write(folder, name, value)
    with pytest.raises(CompileError, match=message):
        folder_files(folder)


def test_files_are_bounded(folder: Path) -> None:
    with (folder / "tokenizer.json").open("r+b") as file:
        file.truncate(MAX_FILE + 1)
    with pytest.raises(CompileError, match="must have at most 67108864 bytes"):
        folder_files(folder)


def test_a_folder_without_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"must hold tokenizer.json or tokenizer.model, got neither"):
        folder_files(tmp_path)


def test_nothing_would_end_a_reply(folder: Path) -> None:
    write(folder, "tokenizer_config.json", {})
    write(folder, "tokenizer.json", TOKENIZER | {"added_tokens": []})
    with pytest.raises(CompileError, match="names an eos_token: nothing would end a reply"):
        folder_files(folder)
