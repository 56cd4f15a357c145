"""The bytes of the events of a stream."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from mistralrs_onnx.runtime.engine import Output
from mistralrs_onnx.runtime.logprobs import TokenLogprobs

from .jobs import JSON, Job, Prompt
from .logprobs import LogprobsWriter
from .replies import Reply

MARK = "\0"  # where the text goes in a template: no model name or id contains it

Outputs = Sequence[tuple[int, Output]]


@dataclass(slots=True)
class News:
    """What is new of one choice."""

    texts: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    finish_reason: str | None = None


class Chunks:
    """For a delta of text alone only the text is encoded, the rest is a template."""

    def __init__(self, job: Job, head: JSON, requests: Sequence[Any]) -> None:
        """`requests`: the engine's, which know the log probabilities of the prompt."""
        self._shape = job.shape
        self._head = {**head, "object": job.shape.chunk_object}
        self._nothing: JSON = {"usage": None} if job.include_usage else {}
        places = range(job.num_answers)
        templates = [self._chunk([job.shape.delta(i, MARK)]) for i in places]
        self._split = [template.split(orjson.dumps(MARK)) for template in templates]
        self._replies = None if job.reading is None else [Reply(job.reading) for _ in places]
        self._writers: list[LogprobsWriter] | None = None if job.writer is None else [job.writer() for _ in places]
        self._prompts = [prompt for prompt, _ in job.answers()]
        self._requests = requests
        self._unscored = set(places) if job.scores_prompt else set()

    def _chunk(self, choices: list[JSON]) -> bytes:
        return event({**self._head, "choices": choices, **self._nothing})

    def opening(self) -> bytes:
        """What comes before the first tokens: the role, and prompts that are repeated without their probabilities."""
        opening = self._shape.opening
        roles = [self._chunk([opening(i)]) for i in range(len(self._prompts))] if opening else []
        echoes = [self._delta(i, p.echo) for i, p in enumerate(self._prompts) if p.echo and i not in self._unscored]
        return b"".join(roles + echoes)

    def _delta(self, index: int, text: str) -> bytes:
        before, after = self._split[index]
        return before + orjson.dumps(text) + after

    def _scored(self, index: int, prompt: Prompt) -> bytes:
        """The prompt and its probabilities, which are known with the first output."""
        self._unscored.remove(index)
        assert self._writers is not None
        writer = self._writers[index]
        writer.add_prompt(prompt.echo, prompt.token_ids, self._requests[index].prompt_logprobs)
        return self._chunk([{**self._shape.delta(index, prompt.echo), "logprobs": writer.take()}])

    def _pieces(self, index: int, text: str, logprobs: Sequence[TokenLogprobs]) -> bytes:
        """Of new text and new log probabilities, either of which may be missing."""
        told: JSON | None = None
        if self._writers is not None and logprobs:
            self._writers[index].add(logprobs)
            told = self._writers[index].take()
        if self._replies is not None:
            return self._deltas(index, self._replies[index].feed(text), told)
        if told is None:
            return self._delta(index, text) if text else b""
        return self._chunk([{**self._shape.delta(index, text), "logprobs": told}])

    def _deltas(self, index: int, deltas: Sequence[JSON], told: JSON | None = None) -> bytes:
        """`told` goes with the first, which may say nothing else."""
        assert self._shape.chunk is not None
        choices = [self._shape.chunk(index, delta) for delta in deltas or ([{}] if told else [])]
        if told:
            choices[0]["logprobs"] = told
        return b"".join(self._chunk([choice]) for choice in choices)

    def _ending(self, index: int, finish_reason: str) -> bytes:
        if self._replies is None:
            return self._chunk([self._shape.ending(index, finish_reason)])
        reply = self._replies[index]
        rest = self._deltas(index, reply.finish())
        return rest + self._chunk([self._shape.ending(index, reply.finish_reason(finish_reason))])

    def encode(self, outputs: Outputs) -> bytes:
        """What is new of a choice at once, however many outputs waited."""
        news: dict[int, News] = {}
        for index, output in outputs:
            found = news.setdefault(index, News())
            found.texts.append(output.text)
            found.logprobs += output.logprobs
            found.finish_reason = output.finish_reason
        pieces = [self._scored(i, self._prompts[i]) for i in news if i in self._unscored]
        pieces += [self._pieces(i, "".join(new.texts), new.logprobs) for i, new in news.items()]
        pieces += [self._ending(i, new.finish_reason) for i, new in news.items() if new.finish_reason is not None]
        return b"".join(pieces)

    def usage(self, usage: JSON) -> bytes:
        return event({**self._head, "choices": [], "usage": usage})


def event(body: JSON) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"
