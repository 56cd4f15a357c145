"""A model in this process as an LLM of LlamaIndex: `from mistralrs_onnx.llama_index import MistralRS`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mistralrs_onnx.runtime.errors import RequestError

from .async_llm import AsyncLLM
from .engine_args import EngineArgs
from .llm import LLM
from .outputs import RequestOutput
from .prompts import Prompt, TokensPrompt
from .sampling_params import RequestOutputKind, SamplingParams
from .which import AnyWhich

try:
    from llama_index.core.base.llms.types import TextBlock
    from llama_index.core.bridge.pydantic import Field, PrivateAttr
    from llama_index.core.callbacks import CallbackManager
    from llama_index.core.constants import DEFAULT_NUM_OUTPUTS
    from llama_index.core.llms import (
        ChatMessage,
        ChatResponse,
        ChatResponseAsyncGen,
        ChatResponseGen,
        CompletionResponse,
        CompletionResponseAsyncGen,
        CompletionResponseGen,
        CustomLLM,
        LLMMetadata,
        MessageRole,
    )
    from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
    from llama_index.core.types import BaseOutputParser
except ImportError as error:
    raise ImportError("LlamaIndex is not installed: pip install 'mistralrs-onnx[llama-index]'") from error


TOLD = ("name", "tool_calls", "tool_call_id")  # of what LlamaIndex keeps beside a message


class MistralRS(CustomLLM):
    """`model`: as of `LLM`, or `EngineArgs`, which say more, or an `LLM` that is open and stays so when this is closed.

    `generate_kwargs` and what each call gives by name are fields of `SamplingParams`; what nobody says is as the model
    recommends. Chats are written by the model's own template unless `messages_to_prompt` is given. Raises CompileError
    and PackageError.
    """

    model: str = Field(description="The model's name.")
    max_tokens: int = Field(description="Tokens of an answer at most.", gt=0)
    temperature: float | None = Field(description="None: as the model recommends.", ge=0)
    generate_kwargs: dict[str, Any] = Field(description="Fields of SamplingParams.")

    _llm: LLM = PrivateAttr()
    _async_llm: AsyncLLM = PrivateAttr()
    _is_owner: bool = PrivateAttr()
    _is_own_template: bool = PrivateAttr()

    def __init__(
        self,
        model: str | Path | AnyWhich | EngineArgs | LLM,
        *,
        max_tokens: int = DEFAULT_NUM_OUTPUTS,
        temperature: float | None = None,
        generate_kwargs: Mapping[str, Any] = MappingProxyType({}),
        system_prompt: str | None = None,
        messages_to_prompt: Callable[[Sequence[ChatMessage]], str] | None = None,
        completion_to_prompt: Callable[[str], str] | None = None,
        output_parser: BaseOutputParser | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        llm = model if isinstance(model, LLM) else LLM.from_engine_args(_args(model))
        has_template = llm.model.chat_template is not None
        super().__init__(
            model=llm.model.name,
            max_tokens=max_tokens,
            temperature=temperature,
            generate_kwargs=dict(generate_kwargs),
            system_prompt=system_prompt,
            messages_to_prompt=messages_to_prompt or (_template(llm) if has_template else None),
            completion_to_prompt=completion_to_prompt,
            output_parser=output_parser,
            callback_manager=callback_manager or CallbackManager([]),
        )
        self._llm, self._async_llm = llm, AsyncLLM.of(llm.model)
        self._is_owner = not isinstance(model, LLM)
        self._is_own_template = messages_to_prompt is None and has_template

    @classmethod
    def class_name(cls) -> str:
        return "MistralRS"

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(
            context_window=self._llm.model.context_length,
            num_output=self.max_tokens,
            is_chat_model=self._llm.model.chat_template is not None,
            model_name=self.model,
        )

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return _response(self._llm.generate(self._prompt(prompt, formatted=formatted), self._params(kwargs))[0])

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        return self._stream(self._prompt(prompt, formatted=formatted), self._params(kwargs))

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return await self._answer(self._prompt(prompt, formatted=formatted), self._params(kwargs))

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        return self._async_stream(self._prompt(prompt, formatted=formatted), self._params(kwargs))

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return _chat(_response(self._llm.generate(self._chat_prompt(messages), self._params(kwargs))[0]))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        responses = self._stream(self._chat_prompt(messages), self._params(kwargs))
        return (_chat(response) for response in responses)

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return _chat(await self._answer(self._chat_prompt(messages), self._params(kwargs)))

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        responses = self._async_stream(self._chat_prompt(messages), self._params(kwargs))
        return (_chat(response) async for response in responses)

    def close(self) -> None:
        """Ends what runs, and the engine unless it was given."""
        self._async_llm.close()
        if self._is_owner:
            self._llm.close()

    def _prompt(self, text: str, *, formatted: bool) -> Prompt:
        return text if formatted else str(self.completion_to_prompt(text))

    def _chat_prompt(self, messages: Sequence[ChatMessage]) -> Prompt:
        text = self.messages_to_prompt(messages)
        if not self._is_own_template:
            return str(text)
        token_ids = self._llm.tokenize(text, add_special_tokens=False)  # the template wrote those that it wants
        return TokensPrompt(prompt=text, prompt_token_ids=token_ids)

    def _params(self, said: Mapping[str, Any]) -> SamplingParams:
        """Raises TypeError for a name that SamplingParams has not."""
        own: dict[str, Any] = {"max_tokens": self.max_tokens}
        if self.temperature is not None:
            own["temperature"] = self.temperature
        return replace(self._llm.get_default_sampling_params(), **{**own, **self.generate_kwargs, **said})

    def _stream(self, prompt: Prompt, params: SamplingParams) -> CompletionResponseGen:
        before = ""
        for output in self._llm.stream(prompt, params):
            response = _response(output, before)
            before = response.text
            yield response

    async def _answer(self, prompt: Prompt, params: SamplingParams) -> CompletionResponse:
        params = replace(params, output_kind=RequestOutputKind.FINAL_ONLY)
        async with aclosing(self._async_llm.generate(prompt, params)) as outputs:
            return _response(await anext(outputs))

    async def _async_stream(self, prompt: Prompt, params: SamplingParams) -> CompletionResponseAsyncGen:
        before = ""
        async with aclosing(self._async_llm.generate(prompt, params)) as outputs:
            async for output in outputs:
                response = _response(output, before)
                before = response.text
                yield response


def _args(model: str | Path | AnyWhich | EngineArgs) -> EngineArgs:
    return model if isinstance(model, EngineArgs) else EngineArgs(model)


def _template(llm: LLM) -> Callable[[Sequence[ChatMessage]], str]:
    return lambda messages: llm.apply_chat_template([_message(each) for each in messages])


def _message(message: ChatMessage) -> dict[str, Any]:
    """Raises RequestError for blocks that are no text."""
    for block in message.blocks:
        if not isinstance(block, TextBlock):
            raise RequestError(f"this model reads only text, got a {type(block).__name__}", param="messages")
    told = {name: message.additional_kwargs[name] for name in TOLD if name in message.additional_kwargs}
    return {"role": message.role.value, "content": message.content or "", **told}


def _response(output: RequestOutput, before: str = "") -> CompletionResponse:
    """`before`: the text that earlier responses told of."""
    answer = output.outputs[0]
    num_prompt, num_answer = len(output.prompt_token_ids), len(answer.token_ids)
    counts = {"prompt_tokens": num_prompt, "completion_tokens": num_answer, "total_tokens": num_prompt + num_answer}
    return CompletionResponse(
        text=answer.text, delta=answer.text.removeprefix(before), raw=output, additional_kwargs=counts
    )


def _chat(response: CompletionResponse) -> ChatResponse:
    return ChatResponse(
        message=ChatMessage(role=MessageRole.ASSISTANT, content=response.text),
        delta=response.delta,
        raw=response.raw,
        additional_kwargs=response.additional_kwargs,
    )
