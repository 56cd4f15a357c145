"""The LLM of LlamaIndex: every way to ask, and what LlamaIndex itself makes of it."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from tiny_packages import tiny_package

from mistralrs_onnx import LLM, EngineArgs, RequestError, SamplingParams

needs = pytest.mark.skipif(find_spec("llama_index") is None, reason="needs llama-index-core (extra llama-index)")
GREEDY = SamplingParams(temperature=0, max_tokens=12)


def test_without_the_extra_the_error_says_what_to_install() -> None:
    code = "import sys; sys.modules['llama_index'] = None; import mistralrs_onnx.llama_index"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    said = "ImportError: LlamaIndex is not installed: pip install 'mistralrs-onnx[llama-index]'"
    assert run.stderr.strip().splitlines()[-1] == said


@pytest.fixture(scope="module")
def package(tiny_llama: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_package(tiny_llama, tmp_path_factory.mktemp("llama_index"))


@pytest.fixture(scope="module")
def plain(package: Path) -> Iterator[LLM]:
    with LLM(package) as opened:
        yield opened


@pytest.fixture(scope="module")
def llm(plain: LLM) -> Any:
    from mistralrs_onnx.llama_index import MistralRS

    return MistralRS(plain, max_tokens=12, temperature=0)


@pytest.fixture
def chat() -> list[Any]:
    from llama_index.core.llms import ChatMessage

    return [ChatMessage(role="system", content="be brief"), ChatMessage(role="user", content="hi")]


@pytest.mark.oracle
@needs
def test_metadata_is_that_of_the_model(llm: Any) -> None:
    told = llm.metadata
    assert (told.context_window, told.num_output, told.is_chat_model) == (256, 12, True)
    assert (told.model_name, llm.class_name()) == ("tiny", "MistralRS")


@pytest.mark.oracle
@needs
def test_completions_are_those_of_the_model(llm: Any, plain: LLM) -> None:
    expected = plain.generate("hello", GREEDY)[0].outputs[0].text
    whole = llm.complete("hello")
    assert (whole.text, whole.additional_kwargs["completion_tokens"]) == (expected, 12)
    pieces = list(llm.stream_complete("hello"))
    assert (pieces[-1].text, "".join(piece.delta for piece in pieces)) == (expected, expected)
    assert len(pieces) > 3

    async def both() -> tuple[str, list[str]]:
        stream = await llm.astream_complete("hello")
        return (await llm.acomplete("hello")).text, [piece.delta async for piece in stream]

    text, deltas = asyncio.run(both())
    assert (text, "".join(deltas)) == (expected, expected)


@pytest.mark.oracle
@needs
def test_chats_are_written_by_the_template(llm: Any, plain: LLM, chat: list[Any]) -> None:
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    expected = plain.chat(messages, GREEDY)[0]
    assert llm.messages_to_prompt(chat) == expected.prompt
    text = expected.outputs[0].text
    answer = llm.chat(chat)
    assert (answer.message.content, answer.message.role, answer.raw.prompt) == (text, "assistant", expected.prompt)
    pieces = list(llm.stream_chat(chat))
    assert (pieces[-1].message.content, "".join(piece.delta for piece in pieces)) == (text, text)

    async def both() -> tuple[str, list[str]]:
        stream = await llm.astream_chat(chat)
        return (await llm.achat(chat)).message.content, [piece.delta async for piece in stream]

    answer, deltas = asyncio.run(both())
    assert (answer, "".join(deltas)) == (text, text)


@pytest.mark.oracle
@needs
def test_calls_say_how_to_sample(llm: Any, plain: LLM) -> None:
    from mistralrs_onnx.llama_index import MistralRS

    seeded = SamplingParams(temperature=1.0, seed=3, max_tokens=5)
    expected = plain.generate("hello", seeded)[0].outputs[0].text
    assert llm.complete("hello", temperature=1.0, seed=3, max_tokens=5).text == expected
    other = MistralRS(plain, max_tokens=99, temperature=0, generate_kwargs={"temperature": 1.0, "seed": 3})
    assert other.complete("hello", max_tokens=5).text == expected
    assert llm.complete("hello", structured_outputs={"choice": ["red"]}).text == "red"
    with pytest.raises(TypeError, match="max_token"):
        llm.complete("hello", max_token=5)
    with pytest.raises(RequestError, match="top_p"):
        llm.complete("hello", top_p=7)


@pytest.mark.oracle
@needs
def test_prompts_are_written_as_asked(plain: LLM, chat: list[Any]) -> None:
    from mistralrs_onnx.llama_index import MistralRS

    llm = MistralRS(
        plain,
        max_tokens=3,
        completion_to_prompt=lambda text: f"<{text}>",
        messages_to_prompt=lambda messages: "|".join(str(each.content) for each in messages),
    )
    assert llm.complete("hello").raw.prompt == "<hello>"
    assert llm.complete("hello", formatted=True).raw.prompt == "hello"
    assert llm.chat(chat).raw.prompt == "be brief|hi"


@pytest.mark.oracle
@needs
def test_what_is_no_text_is_refused(llm: Any) -> None:
    from llama_index.core.base.llms.types import ImageBlock
    from llama_index.core.llms import ChatMessage

    with pytest.raises(RequestError, match="reads only text, got a ImageBlock"):
        llm.chat([ChatMessage(role="user", blocks=[ImageBlock(image=b"aGk=")])])


@pytest.mark.oracle
@needs
def test_a_model_without_template_completes(tiny_llama: Any, tmp_path: Path, chat: list[Any]) -> None:
    from mistralrs_onnx.llama_index import MistralRS

    llm = MistralRS(EngineArgs(tiny_package(tiny_llama, tmp_path, chat_template=None), max_model_len=99), max_tokens=3)
    assert (llm.metadata.is_chat_model, llm.metadata.context_window) == (False, 99)
    assert llm.chat(chat).raw.prompt == "system: be brief\nuser: hi\nassistant: "
    llm.close()
    with pytest.raises(RequestError, match="closed"):
        llm.complete("hello")


@pytest.mark.oracle
@needs
def test_llama_index_chats_with_it(llm: Any, plain: LLM) -> None:
    from llama_index.core.chat_engine import SimpleChatEngine
    from llama_index.core.memory import ChatMemoryBuffer
    from llama_index.core.prompts import PromptTemplate

    memory = ChatMemoryBuffer.from_defaults(token_limit=200, tokenizer_fn=plain.tokenize)
    engine = SimpleChatEngine.from_defaults(llm=llm, memory=memory)
    first = engine.chat("hi").response
    assert engine.chat_history[1].content == first
    assert "".join(engine.stream_chat("so").response_gen) == engine.chat_history[-1].content
    template = PromptTemplate("say {word}")
    assert llm.predict(template, word="hi") == llm.chat(template.format_messages(llm=llm, word="hi")).message.content


@pytest.mark.oracle
@needs
def test_a_stream_that_is_left_frees_its_slot(llm: Any, plain: LLM) -> None:
    stream = llm.stream_complete("hello", max_tokens=200, ignore_eos=True)
    next(stream)
    stream.close()
    deadline = time.monotonic() + 20
    while plain.stats().running:
        assert time.monotonic() < deadline
        time.sleep(0.01)
