"""Our templates write what the families that they are named after were trained on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.compiler.templates.find import MAX_TEMPLATE, NAMES, find_template
from mistralrs_onnx.runtime.chat_template import ChatTemplate
from mistralrs_onnx.runtime.errors import RequestError

CHAT = [
    {"role": "system", "content": "You are a helpful assistant"},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi there"},
    {"role": "user", "content": "Who are you"},
    {"role": "assistant", "content": "   I am an assistant   "},
    {"role": "user", "content": "Another question"},
]
EXPECTED = {
    "chatml": "<|im_start|>system\nYou are a helpful assistant<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
    "<|im_start|>assistant\nHi there<|im_end|>\n<|im_start|>user\nWho are you<|im_end|>\n"
    "<|im_start|>assistant\n   I am an assistant   <|im_end|>\n<|im_start|>user\nAnother question<|im_end|>\n"
    "<|im_start|>assistant\n",
    "llama2": "<s>[INST] <<SYS>>\nYou are a helpful assistant\n<</SYS>>\n\nHello [/INST] Hi there </s>"
    "<s>[INST] Who are you [/INST] I am an assistant </s><s>[INST] Another question [/INST]",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nYou are a helpful assistant<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nHello<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nHi there<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nWho are you<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nI am an assistant<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nAnother question<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<s>[INST] You are a helpful assistant\n\nHello [/INST]Hi there</s> [INST] Who are you [/INST]"
    "   I am an assistant   </s> [INST] Another question [/INST]",
    "phi3": "<s><|system|>\nYou are a helpful assistant<|end|>\n<|user|>\nHello<|end|>\n"
    "<|assistant|>\nHi there<|end|>\n<|user|>\nWho are you<|end|>\n"
    "<|assistant|>\n   I am an assistant   <|end|>\n<|user|>\nAnother question<|end|>\n<|assistant|>\n",
}
EXPECTED["default"] = EXPECTED["llama2"]


def render(name: str, messages: list[dict[str, str]] = CHAT, *, prompt: bool = True) -> str:
    template = ChatTemplate(find_template(name), bos_token="<s>", eos_token="</s>")
    return template.render(messages, add_generation_prompt=prompt)


@pytest.mark.parametrize("name", NAMES)
def test_a_chat(name: str) -> None:
    assert render(name) == EXPECTED[name]


@pytest.mark.parametrize("name", ["chatml", "llama3", "phi3"])
def test_without_prompt_for_an_answer(name: str) -> None:
    prompt = {"chatml": "<|im_start|>assistant\n", "phi3": "<|assistant|>\n"}.get(
        name, "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert render(name, prompt=False) + prompt == EXPECTED[name]


def test_mistral_without_system_message() -> None:
    assert render("mistral", CHAT[1:4]) == "<s>[INST] Hello [/INST]Hi there</s> [INST] Who are you [/INST]"


def test_default_is_llama2_with_a_system_message() -> None:
    assert render("llama2", CHAT[1:2]) == "<s>[INST] Hello [/INST]"
    text = render("default", CHAT[1:2])
    assert text.startswith("<s>[INST] <<SYS>>\nYou are a careful assistant.")
    assert text.endswith("\n<</SYS>>\n\nHello [/INST]")


@pytest.mark.parametrize("name", ["llama2", "default", "mistral"])
@pytest.mark.parametrize("roles", [["user", "user"], ["assistant"], ["user", "system"], ["user", "assistant", "tool"]])
def test_turns_alternate(name: str, roles: list[str]) -> None:
    with pytest.raises(RequestError, match="roles must be user, assistant"):
        render(name, [{"role": role, "content": "x"} for role in roles])


@pytest.mark.parametrize("name", NAMES)
def test_tokens_need_not_be_known(name: str) -> None:
    assert ChatTemplate(find_template(name)).render(CHAT) == EXPECTED[name].replace("<s>", "").replace("</s>", "")


def test_files(tmp_path: Path) -> None:
    (tmp_path / "a.jinja").write_text("{{ messages }}\n", encoding="utf-8")
    (tmp_path / "b.json").write_text(json.dumps({"chat_template": "ü", "bos_token": "<s>"}), encoding="utf-8")
    assert find_template(str(tmp_path / "a.jinja")) == "{{ messages }}\n"
    assert find_template(str(tmp_path / "b.json")) == "ü"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", "{", "a.json must be JSON"),
        ("a.json", "{}", "chat_template in .*a.json must be a text"),
        ("a.json", '{"chat_template": [{"name": "rag", "template": "x"}]}', "or a list with one named default"),
        ("a.json", json.dumps({"chat_template": "x" * (MAX_TEMPLATE + 1)}), "at most 1048576 characters, got 1048577"),
        ("a.jinja", "x" * (MAX_TEMPLATE + 1), "a.jinja must have at most 1048576 bytes"),
        ("a.txt", "x", r"is not known, only chatml, .* and files that end in .jinja or .json"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(CompileError, match=message):
        find_template(str(tmp_path / name))


def test_names_have_neighbours(tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"'llama-3' is not known, .*; the nearest is llama3"):
        find_template("llama-3")
    with pytest.raises(CompileError, match=r"b\.jinja cannot be read: No such file"):
        find_template(str(tmp_path / "b.jinja"))


@pytest.mark.oracle
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("chat", [CHAT, CHAT[1:], CHAT[:4], [{"role": "user", "content": " ünï <&>\n"}]])
@pytest.mark.parametrize("prompt", [True, False])
def test_like_transformers(name: str, chat: list[dict[str, Any]], *, prompt: bool) -> None:
    utils = pytest.importorskip("transformers.utils.chat_template_utils")
    theirs, _ = utils.render_jinja_template(
        [chat], chat_template=find_template(name), add_generation_prompt=prompt, bos_token="<s>", eos_token="</s>"
    )
    assert render(name, chat, prompt=prompt) == theirs[0]
