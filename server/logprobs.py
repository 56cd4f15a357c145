"""Log probabilities of tokens in OpenAI's words, which differ between chats and completions."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mistralrs_onnx.runtime.logprobs import LEAST, TokenLogprobs
from mistralrs_onnx.runtime.token_bytes import spelled

from .model import TokenTexts

JSON = dict[str, Any]


class LogprobsWriter(Protocol):
    """Of one choice, told in parts: `take` gives what was added since the last time."""

    def add_prompt(self, text: str, token_ids: Sequence[int], scores: Sequence[TokenLogprobs | None]) -> None:
        """Of a prompt that is repeated as `text`; nothing is known of its first token."""

    def add(self, scores: Sequence[TokenLogprobs]) -> None: ...
    def take(self) -> JSON: ...


class ChatLogprobs:
    """{"content": [{"token", "bytes", "logprob", "top_logprobs"}, ...]}"""

    def __init__(self, token_bytes: TokenTexts) -> None:
        self._bytes = token_bytes
        self._content: list[JSON] = []

    def add_prompt(self, text: str, token_ids: Sequence[int], scores: Sequence[TokenLogprobs | None]) -> None:
        raise NotImplementedError("chats repeat no prompts")

    def add(self, scores: Sequence[TokenLogprobs]) -> None:
        for score in scores:
            alternatives = [self._entry(*each) for each in score.top]
            self._content.append({**self._entry(score.token_id, score.logprob), "top_logprobs": alternatives})

    def take(self) -> JSON:
        content, self._content = self._content, []
        return {"content": content, "refusal": None}

    def _entry(self, token_id: int, logprob: float) -> JSON:
        data = self._bytes(token_id)
        return {"token": spelled(data), "logprob": max(logprob, LEAST), "bytes": list(data)}


class TextLogprobs:
    """{"tokens": [...], "token_logprobs": [...], "top_logprobs": [{token: logprob, ...}, ...], "text_offset": [...]}

    Alternatives include the token itself. An offset counts the characters that earlier tokens finished.
    """

    def __init__(self, token_bytes: TokenTexts) -> None:
        self._bytes = token_bytes
        self._special_ids = token_bytes.special_ids
        self._is_bare = token_bytes.strips_space  # the first token of the output
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._offset = 0
        self._told = _nothing()

    def add_prompt(self, text: str, token_ids: Sequence[int], scores: Sequence[TokenLogprobs | None]) -> None:
        for token_id, score in zip(token_ids, scores, strict=True):
            self._add(token_id, score)
            data = self._bytes(token_id)
            if token_id in self._special_ids:  # those that the tokenizer put around a text are not part of it
                name = data.decode(errors="replace")
                self._offset += len(name) if text.startswith(name, self._offset) else 0
            else:
                is_bare = self._offset == 0 and data.startswith(b" ") and not text.startswith(" ")
                self._move(data[1:] if is_bare else data)  # some tokenizers put a space before a text
        self._offset = len(text)
        self._decoder.reset()

    def add(self, scores: Sequence[TokenLogprobs]) -> None:
        for score in scores:
            self._add(score.token_id, score)
            if score.token_id not in self._special_ids:
                data = self._bytes(score.token_id)
                self._move(data.removeprefix(b" ") if self._is_bare else data)
                self._is_bare = False

    def take(self) -> JSON:
        told, self._told = self._told, _nothing()
        return told

    def _add(self, token_id: int, score: TokenLogprobs | None) -> None:
        self._told["tokens"].append(spelled(self._bytes(token_id)))
        self._told["text_offset"].append(self._offset)
        self._told["token_logprobs"].append(None if score is None else max(score.logprob, LEAST))
        self._told["top_logprobs"].append(None if score is None else self._alternatives(score))

    def _alternatives(self, score: TokenLogprobs) -> dict[str, float]:
        found: dict[str, float] = {}
        for token_id, logprob in (*score.top, (score.token_id, score.logprob)):
            found.setdefault(spelled(self._bytes(token_id)), max(logprob, LEAST))
        return found

    def _move(self, data: bytes) -> None:
        self._offset += len(self._decoder.decode(data))


@dataclass(frozen=True, slots=True)
class PromptWriter:
    """As vLLM tells of prompts: for each token but the first {token id: {"logprob", "rank", "decoded_token"}, ...}."""

    token_bytes: TokenTexts
    num_top: int  # alternatives beside the token itself

    def told(self, scores: Sequence[TokenLogprobs | None]) -> list[dict[str, JSON] | None]:
        return [None if score is None else self._entries(score) for score in scores]

    def _entries(self, score: TokenLogprobs) -> dict[str, JSON]:
        found = {str(score.token_id): self._entry(score.token_id, score.logprob, score.rank)}
        for i, (token_id, logprob) in enumerate(score.top[: self.num_top]):
            found.setdefault(str(token_id), self._entry(token_id, logprob, i + 1))
        return found

    def _entry(self, token_id: int, logprob: float, rank: int) -> JSON:
        text = self.token_bytes(token_id).decode(errors="replace")
        return {"logprob": max(logprob, LEAST), "rank": rank, "decoded_token": text}


def with_fewer(scores: Sequence[TokenLogprobs | None], num_top: int) -> list[TokenLogprobs | None]:
    """Without the alternatives that somebody else asked for."""
    return [None if score is None else score._replace(top=score.top[:num_top]) for score in scores]


def _nothing() -> JSON:
    return {"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}
