"""Runs a job on the engine and writes its answer, whole or as server-sent events."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import orjson
from sanic import HTTPResponse, Request

from mistralrs_onnx.runtime.engine import Output
from mistralrs_onnx.runtime.errors import RequestError
from mistralrs_onnx.runtime.logprobs import TokenLogprobs, mean_logprob
from mistralrs_onnx.runtime.speeds import speeds

from .chunks import Chunks, Outputs, event
from .errors import error_body, internal_error
from .jobs import JSON, Job, Prompt
from .logprobs import with_fewer
from .model import Engine, Model
from .replies import Reading, Reply, merged
from .streams import Bridge, Inbox

logger = logging.getLogger(__name__)

PROMPT_LOGPROBS = "prompt_logprobs"
KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
Note = Callable[[bytes], None]
SSE_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


class Running(NamedTuple):
    """The requests of a job, in the order of its answers, and where their outputs come."""

    requests: Sequence[Any]
    inbox: Inbox


async def answer(
    request: Request, job: Job, model: Model, bridge: Bridge, keep_alive: float, note: Note
) -> HTTPResponse | None:
    """The response to send, or None when a stream was sent, of which `note` is told.

    Raises RequestError before anything is sent.
    """
    head = {
        "id": job.shape.id_prefix + secrets.token_hex(12),
        "created": int(time.time()),
        "model": job.served.name,
        "system_fingerprint": "local",
    }
    with submitted(model.engine, job, bridge) as running:
        if job.stream:
            await send(request, events(job, running, head, keep_alive), note)
            return None
        return HTTPResponse(orjson.dumps(await whole(job, running, head)), content_type="application/json")


@contextmanager
def submitted(engine: Engine, job: Job, bridge: Bridge) -> Iterator[Running]:
    """The job's requests run inside; whatever ends the block, a client that left included, frees them."""
    inbox = Inbox()
    requests: list[Any] = []
    try:
        for index, (prompt, params) in enumerate(job.answers()):
            is_first = index % job.num_drawn == 0
            request = engine.submit(
                prompt.token_ids,
                params,
                bridge.sink(inbox, index),
                job.cache_scope,
                job.served.adapter,
                parent=None if is_first else requests[index - index % job.num_drawn],
                grammar=job.grammar,
                prompt_logprobs=job.num_prompt_logprobs,
                truncate=False,  # that was seen to
            )
            requests.append(request)
        yield Running(requests, inbox)
    finally:
        inbox.close()
        for request in requests:
            engine.cancel(request)


async def received(job: Job, inbox: Inbox, timeout: float | None = None) -> Outputs:
    outputs = await inbox.get(timeout)
    return [(index, without_answer(output)) for index, output in outputs] if job.is_silent else outputs


def without_answer(output: Output) -> Output:
    """Its one token was not asked for."""
    reason = "length" if output.finish_reason == "stop" else output.finish_reason
    usage = output.usage._replace(output_tokens=0)
    return output._replace(text="", token_ids=(), logprobs=(), finish_reason=reason, stop_reason=None, usage=usage)


class Tally:
    """Which answers ended and why, and the tokens that all of them took."""

    def __init__(self, job: Job) -> None:
        self.finish_reasons = [""] * job.num_answers
        self.num_unfinished = job.num_answers
        self._num_drawn = job.num_drawn
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
        if index % self._num_drawn == 0:  # the answers to a prompt read it once
            self._prompt_tokens += output.usage.prompt_tokens
            self._cached_tokens += output.usage.cached_tokens

    def usage(self, requests: Sequence[Any]) -> JSON:
        """OpenAI's counts, and mistral.rs's speeds."""
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": self._output_tokens,
            "total_tokens": self._prompt_tokens + self._output_tokens,
            "prompt_tokens_details": {"cached_tokens": self._cached_tokens},
            **speeds(requests, self._num_drawn, self._prompt_tokens, self._output_tokens)._asdict(),
        }


class Drawn:
    """One answer, as it comes: it is read at once, which spreads the work."""

    def __init__(self, prompt: Prompt, reading: Reading | None) -> None:
        self.prompt = prompt
        self.texts = [prompt.echo]
        self.logprobs: list[TokenLogprobs] = []
        self.reply = None if reading is None else Reply(reading)
        self.deltas: list[JSON] = []

    def add(self, output: Output) -> None:
        self.logprobs += output.logprobs
        if self.reply is None:
            self.texts.append(output.text)
        else:
            self.deltas += self.reply.feed(output.text)


async def whole(job: Job, running: Running, head: JSON) -> JSON:
    drawn = [Drawn(prompt, job.reading) for prompt, _ in job.answers()]
    tally = Tally(job)
    while tally.num_unfinished:
        outputs = await received(job, running.inbox)
        tally.add(outputs)
        for index, output in outputs:
            drawn[index].add(output)

    def body() -> JSON:
        places = list(best(job, drawn))
        requests = [running.requests[place] for place in places]
        choices = [
            whole_choice(job, index, drawn[place], tally.finish_reasons[place], requests[index])
            for index, place in enumerate(places)
        ]
        told = {**head, "object": job.shape.object, "choices": choices, "usage": tally.usage(running.requests)}
        return told if job.prompt_writer is None else with_prompts(told, job, requests)

    # Long prompts have many scores: writing them must not hold up other requests.
    return body() if job.num_prompt_logprobs is None else await asyncio.to_thread(body)


def with_prompts(body: JSON, job: Job, requests: Sequence[Any]) -> JSON:
    """vLLM tells of prompts in each choice of a completion, and beside the choices of a chat."""
    assert job.prompt_writer is not None
    if job.shape.is_chat:
        return {**body, PROMPT_LOGPROBS: job.prompt_writer.told(requests[0].prompt_logprobs)}
    told = (job.prompt_writer.told(request.prompt_logprobs) for request in requests)
    choices = [{**choice, PROMPT_LOGPROBS: each} for choice, each in zip(body["choices"], told, strict=True)]
    return {**body, "choices": choices}


def best(job: Job, drawn: Sequence[Drawn]) -> Iterator[int]:
    """Places of the `n` answers to each prompt with the best mean log probability of a token, best first."""
    for first in range(0, len(drawn), job.num_drawn):
        places = range(first, first + job.num_drawn)
        if job.num_drawn == job.n:
            yield from places
        else:
            yield from sorted(places, key=lambda place: -mean_logprob(drawn[place].logprobs))[: job.n]


def whole_choice(job: Job, index: int, drawn: Drawn, finish_reason: str, request: Any) -> JSON:
    logprobs = None
    if job.writer is not None:
        writer = job.writer()
        if job.scores_prompt:
            scores = with_fewer(request.prompt_logprobs, job.params.logprobs or 0)
            writer.add_prompt(drawn.prompt.echo, drawn.prompt.token_ids, scores)
        writer.add(drawn.logprobs)
        logprobs = writer.take()
    if drawn.reply is None:
        text = "".join(drawn.texts)
        return {**job.shape.choice(index, text, finish_reason), "logprobs": logprobs}
    message = merged(drawn.deltas + drawn.reply.finish())
    choice = job.shape.choice(index, "", drawn.reply.finish_reason(finish_reason))
    return {**choice, "message": {**choice["message"], **message}, "logprobs": logprobs}


async def events(job: Job, running: Running, head: JSON, keep_alive: float) -> AsyncIterator[bytes]:
    """Everything that waits, in one piece for each wake-up. Raises RequestError when a choice fails."""
    chunks = Chunks(job, head, running.requests)
    tally = Tally(job)
    opening = chunks.opening()
    while tally.num_unfinished:
        outputs = await received(job, running.inbox, keep_alive)
        tally.add(outputs)
        data = chunks.encode(outputs) if outputs else KEEP_ALIVE
        if not tally.num_unfinished:
            data += (chunks.usage(tally.usage(running.requests)) if job.include_usage else b"") + DONE
        if data:
            yield opening + data
            opening = b""


async def send(request: Request, pieces: AsyncIterator[bytes], note: Note) -> None:
    """Headers go out with the first piece, so that a failure before it still has its own status."""
    response: HTTPResponse | None = None
    try:
        async for piece in pieces:
            if response is None:
                response = await respond(request)
            note(piece)
            await response.send(piece)
    except Exception as error:
        if response is None:
            raise
        data = event(error_body(_told(error, request)))
        note(data)
        await response.send(data)
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
