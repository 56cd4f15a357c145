"""Runs a job on the engine and writes its answer, whole or as server-sent events."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import contextmanager

import orjson
from sanic import HTTPResponse, Request

from mistralrs_onnx.runtime.engine import Output
from mistralrs_onnx.runtime.errors import RequestError

from .errors import error_body, internal_error
from .jobs import JSON, Job
from .model import Engine, Model
from .replies import Reply, merged
from .streams import Bridge, Inbox

logger = logging.getLogger(__name__)

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
SSE_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
MARK = "\0"  # where the text goes in a template: no model name or id contains it

Outputs = Sequence[tuple[int, Output]]


async def answer(request: Request, job: Job, model: Model, bridge: Bridge, keep_alive: float) -> HTTPResponse | None:
    """The response to send, or None when a stream was sent. Raises RequestError before anything is sent."""
    head = {"id": job.shape.id_prefix + secrets.token_hex(12), "created": int(time.time()), "model": job.served.name}
    with submitted(model.engine, job, bridge) as inbox:
        if job.stream:
            await send(request, events(job, inbox, head, keep_alive))
            return None
        return HTTPResponse(orjson.dumps(await whole(job, inbox, head)), content_type="application/json")


@contextmanager
def submitted(engine: Engine, job: Job, bridge: Bridge) -> Iterator[Inbox]:
    """The job's requests run inside; whatever ends the block, a client that left included, frees them."""
    inbox = Inbox()
    requests = []
    try:
        for index, (prompt, params) in enumerate(job.choices()):
            sink = bridge.sink(inbox, index)
            scope, adapter = job.cache_scope, job.served.adapter
            requests.append(engine.submit(prompt.token_ids, params, sink, scope, adapter, grammar=job.grammar))
        yield inbox
    finally:
        for request in requests:
            engine.cancel(request)


class Tally:
    """Which choices ended and why, and the tokens that all of them took."""

    def __init__(self, job: Job) -> None:
        self.finish_reasons = [""] * job.num_choices
        self.num_unfinished = job.num_choices
        self._n = job.n
        self._prompt_tokens = self._cached_tokens = self._output_tokens = 0

    def add(self, outputs: Outputs) -> None:
        """Raises RequestError when one of them failed."""
        for index, output in outputs:
            if output.finish_reason is not None:
                self._finish(index, output)

    def _finish(self, index: int, output: Output) -> None:
        if output.error is not None:
            raise output.error
        if output.finish_reason == "error":
            raise internal_error()
        if output.finish_reason == "cancelled":
            raise RequestError("The server is shutting down: try another one.", status=503, code="draining")
        assert output.finish_reason is not None
        self.finish_reasons[index] = output.finish_reason
        self.num_unfinished -= 1
        self._output_tokens += output.usage.output_tokens
        if index % self._n == 0:  # the n answers to a prompt read it once
            self._prompt_tokens += output.usage.prompt_tokens
            self._cached_tokens += output.usage.cached_tokens

    def usage(self) -> JSON:
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._output_tokens,
            "total_tokens": self._prompt_tokens + self._output_tokens,
            "prompt_tokens_details": {"cached_tokens": self._cached_tokens},
        }


async def whole(job: Job, inbox: Inbox, head: JSON) -> JSON:
    texts = [[prompt.echo] for prompt, _ in job.choices()]
    tally = Tally(job)
    while tally.num_unfinished:
        outputs = await inbox.get()
        tally.add(outputs)
        for index, output in outputs:
            texts[index].append(output.text)
    answers = zip(texts, tally.finish_reasons, strict=True)
    choices = [whole_choice(job, index, "".join(parts), reason) for index, (parts, reason) in enumerate(answers)]
    return {**head, "object": job.shape.object, "choices": choices, "usage": tally.usage()}


def whole_choice(job: Job, index: int, text: str, finish_reason: str) -> JSON:
    if job.reading is None:
        return job.shape.choice(index, text, finish_reason)
    reply = Reply(job.reading)
    message = merged(reply.feed(text) + reply.finish())
    choice = job.shape.choice(index, "", reply.finish_reason(finish_reason))
    return {**choice, "message": {**choice["message"], **message}}


class Chunks:
    """The bytes of a stream's events; for a delta only its text is encoded, the rest is a template."""

    def __init__(self, job: Job, head: JSON) -> None:
        self._shape = job.shape
        self._head = {**head, "object": job.shape.chunk_object}
        self._nothing: JSON = {"usage": None} if job.include_usage else {}
        self._templates = [self._chunk([job.shape.delta(i, MARK)]) for i in range(job.num_choices)]
        self._split = [template.split(orjson.dumps(MARK)) for template in self._templates]
        self._replies = None if job.reading is None else [Reply(job.reading) for _ in range(job.num_choices)]

    def _chunk(self, choices: list[JSON]) -> bytes:
        return event({**self._head, "choices": choices, **self._nothing})

    def opening(self, job: Job) -> bytes:
        """What comes before the first tokens: the role, and the prompts that are to be echoed."""
        opening = self._shape.opening
        roles = [self._chunk([opening(i)]) for i in range(job.num_choices)] if opening else []
        echoes = [self.delta(i, prompt.echo) for i, (prompt, _) in enumerate(job.choices()) if prompt.echo]
        return b"".join(roles + echoes)

    def delta(self, index: int, text: str) -> bytes:
        before, after = self._split[index]
        return before + orjson.dumps(text) + after

    def _deltas(self, index: int, deltas: Iterable[JSON]) -> bytes:
        assert self._shape.chunk is not None
        return b"".join([self._chunk([self._shape.chunk(index, delta)]) for delta in deltas])

    def _pieces(self, index: int, text: str) -> bytes:
        if self._replies is None:
            return self.delta(index, text)
        return self._deltas(index, self._replies[index].feed(text))

    def _ending(self, index: int, finish_reason: str) -> bytes:
        if self._replies is None:
            return self._chunk([self._shape.ending(index, finish_reason)])
        reply = self._replies[index]
        rest = self._deltas(index, reply.finish())
        return rest + self._chunk([self._shape.ending(index, reply.finish_reason(finish_reason))])

    def encode(self, outputs: Outputs) -> bytes:
        """The text of a choice at once, however many outputs waited."""
        texts: dict[int, list[str]] = {}
        endings = []
        for index, output in outputs:
            if output.text:
                texts.setdefault(index, []).append(output.text)
            if output.finish_reason is not None:
                endings.append((index, output.finish_reason))
        pieces = [self._pieces(index, "".join(parts)) for index, parts in texts.items()]
        return b"".join(pieces + [self._ending(index, reason) for index, reason in endings])

    def usage(self, usage: JSON) -> bytes:
        return event({**self._head, "choices": [], "usage": usage})


def event(body: JSON) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


async def events(job: Job, inbox: Inbox, head: JSON, keep_alive: float) -> AsyncIterator[bytes]:
    """Everything that waits, in one piece for each wake-up. Raises RequestError when a choice fails."""
    chunks = Chunks(job, head)
    tally = Tally(job)
    opening = chunks.opening(job)
    while tally.num_unfinished:
        outputs = await inbox.get(keep_alive)
        tally.add(outputs)
        data = chunks.encode(outputs) if outputs else KEEP_ALIVE
        if not tally.num_unfinished:
            data += (chunks.usage(tally.usage()) if job.include_usage else b"") + DONE
        if data:
            yield opening + data
            opening = b""


async def send(request: Request, pieces: AsyncIterator[bytes]) -> None:
    """Headers go out with the first piece, so that a failure before it still has its own status."""
    response: HTTPResponse | None = None
    try:
        async for piece in pieces:
            if response is None:
                response = await respond(request)
            await response.send(piece)
    except Exception as error:
        if response is None:
            raise
        await response.send(event(error_body(_told(error, request))))
    if response is not None:
        await response.send(b"", end_stream=True)


async def respond(request: Request) -> HTTPResponse:
    response = await request.respond(headers=SSE_HEADERS, content_type="text/event-stream; charset=utf-8")
    assert isinstance(response, HTTPResponse)
    return response


def _told(error: Exception, request: Request) -> RequestError:
    if isinstance(error, RequestError):
        return error
    logger.error("%s failed in the middle of a stream", request.path, exc_info=error)
    return internal_error()
