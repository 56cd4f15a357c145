"""The routes, and the Sanic application that has them."""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from types import SimpleNamespace

import orjson
from sanic import HTTPResponse, Request, Sanic
from sanic.config import Config
from sanic.exceptions import PayloadTooLarge, SanicException
from sanic.http import Http
from sanic.response import BaseHTTPResponse

from mistralrs_onnx.runtime.errors import RequestError

from .adapter_changes import AdapterChanges
from .answers import answer
from .chat import chat_job
from .completions import completion_job
from .errors import Errors
from .gate import Gate
from .jobs import JSON, Job
from .metrics.exporter import Exporter
from .model import Model
from .requantize import Requantizer
from .request_log import RequestLog
from .schemas import (
    ActivateRequest,
    Body,
    ChatRequest,
    CompletionRequest,
    LoadRequest,
    Reader,
    ReIsqRequest,
    UnloadRequest,
)
from .selection import DEFAULT, unknown_model
from .streams import Bridge

REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
App = Sanic[Config, SimpleNamespace]
LINGER_BYTES, LINGER_SECONDS = 64 << 20, 2.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes of a request body, seconds of silence before a stream says that it is alive."""

    max_body: int = 8 << 20
    keep_alive: float = 10.0


class Service:
    """What the routes do. Reading, templates and tokenizing run on `pool`, the rest on the event loop."""

    def __init__(
        self,
        gate: Gate,
        requantizer: Requantizer,
        changes: AdapterChanges,
        bridge: Bridge,
        pool: Executor,
        limits: Limits,
        log: RequestLog | None = None,
    ) -> None:
        self.gate = gate
        self.exporter = Exporter(gate)
        self.log = log
        self.limits = limits
        self._requantizer = requantizer
        self._changes = changes
        self._bridge = bridge
        self._pool = pool
        self._reader = Reader()
        self._created = int(time.time())

    async def chat(self, request: Request) -> HTTPResponse | None:
        return await self._answer(request, ChatRequest, chat_job)

    async def completions(self, request: Request) -> HTTPResponse | None:
        return await self._answer(request, CompletionRequest, completion_job)

    async def _answer(
        self, request: Request, schema: type[Body], make_job: Callable[[Body, Model], Job]
    ) -> HTTPResponse | None:
        check_content_type(request)
        with self.gate.enter() as model:

            def prepare() -> Job:
                return make_job(self._reader.read(schema, request.body), model)

            job = await asyncio.get_running_loop().run_in_executor(self._pool, prepare)
            note = _nothing if self.log is None else self.log.response
            return await answer(request, job, model, self._bridge, self.limits.keep_alive, note)

    async def re_isq(self, request: Request) -> HTTPResponse:
        body = self._read(ReIsqRequest, request)
        await self._requantizer.swap(body.ggml_type)
        return json_response({"status": "ok", "type": body.ggml_type})

    async def activate_adapters(self, request: Request) -> HTTPResponse:
        body = self._read(ActivateRequest, request)
        active = await self._changes.activate(body.adapter_names)
        return json_response({"status": "ok", "active": active})

    async def load_adapter(self, request: Request) -> HTTPResponse:
        body = self._read(LoadRequest, request)
        name = body.lora_name
        adapter = await self._changes.load(name, body.lora_path, replace=bool(body.load_inplace))
        told = {"lora_name": name, "rank": adapter.rank, "bytes": adapter.nbytes, "generation": adapter.generation}
        message = f"Success: LoRA adapter {name!r} added successfully."  # the words of vLLM
        return json_response({"status": "ok", **told, "message": message})

    async def unload_adapter(self, request: Request) -> HTTPResponse:
        name = self._read(UnloadRequest, request).lora_name
        await self._changes.unload(name)
        message = f"Success: LoRA adapter {name!r} removed successfully."
        return json_response({"status": "ok", "lora_name": name, "message": message})

    def _read(self, schema: type[Body], request: Request) -> Body:
        """For bodies that are read in no time."""
        check_content_type(request)
        return self._reader.read(schema, request.body)

    async def models(self, _: Request) -> HTTPResponse:
        return json_response({"object": "list", "data": list(cards(self.gate.model(), self._created).values())})

    async def model(self, _: Request, name: str) -> HTTPResponse:
        model = self.gate.model()
        found = cards(model, self._created)
        if name != DEFAULT and name not in found:
            raise unknown_model(name, model)
        return json_response(found[model.name if name == DEFAULT else name])

    async def health(self, _: Request) -> HTTPResponse:
        return json_response({"status": "ok"})

    async def ready(self, _: Request) -> HTTPResponse:
        self.gate.model()
        return json_response({"status": "ready"})

    async def metrics(self, request: Request) -> HTTPResponse:
        text, content_type = self.exporter.text(request.headers.get("accept", ""))
        return HTTPResponse(text, content_type=content_type)


def cards(model: Model, created: int) -> dict[str, JSON]:
    """What there is to know of the model and its adapters, by name."""

    def card(name: str, parent: str | None) -> JSON:
        return {
            "id": name,
            "object": "model",
            "created": created,
            "owned_by": "local",
            "root": model.name,
            "parent": parent,
            "max_model_len": model.context_length,
        }

    adapters = model.adapters
    names = [] if adapters is None else [each.name for each in adapters.loaded()]
    active = () if adapters is None else adapters.active
    adapted = {name: card(name, model.name) | {"active": name in active} for name in names}
    return {model.name: card(model.name, None)} | adapted


def _nothing(data: bytes) -> None:
    """Nobody keeps what is sent."""


def json_response(body: JSON) -> HTTPResponse:
    return HTTPResponse(orjson.dumps(body), content_type="application/json")


def check_content_type(request: Request) -> None:
    """Anything but JSON is refused: a page elsewhere can make a browser post text here, but not JSON."""
    kind = request.headers.get("content-type", "application/json").split(";")[0].strip().lower()
    if kind != "application/json":
        message = f"The body must have content-type application/json, got {kind!r:.64}."
        raise RequestError(message, status=415, code="unsupported_media_type")


def create_app(name: str, service: Service) -> App:
    """An application that is not serving yet; Sanic keeps a process-wide register, so `name` must be unique."""
    app = Sanic(name, config=Config(env_prefix=None), error_handler=Errors(), configure_logging=False)
    _configure(app, service.limits)
    app.add_route(service.chat, "/v1/chat/completions", methods=["POST"], name="chat")
    app.add_route(service.completions, "/v1/completions", methods=["POST"], name="completions")
    app.add_route(service.re_isq, "/re_isq", methods=["POST"], name="re_isq")
    app.add_route(service.activate_adapters, "/activate_adapters", methods=["POST"], name="activate_adapters")
    app.add_route(service.load_adapter, "/v1/load_lora_adapter", methods=["POST"], name="load_adapter")
    app.add_route(service.unload_adapter, "/v1/unload_lora_adapter", methods=["POST"], name="unload_adapter")
    app.add_route(service.models, "/v1/models", methods=["GET"], name="models")
    app.add_route(service.model, "/v1/models/<name:path>", methods=["GET"], name="model")
    app.add_route(service.health, "/health", methods=["GET"], name="health")
    app.add_route(service.ready, "/ready", methods=["GET"], name="ready")
    app.add_route(service.metrics, "/metrics", methods=["GET"], name="metrics")
    app.register_middleware(echo_request_id, "response")
    app.register_middleware(service.exporter.count, "response")
    if service.log is not None:
        _keep_log(app, service.log)
    app.exception(PayloadTooLarge)(refuse_large)
    return app


def _configure(app: App, limits: Limits) -> None:
    app.config.MOTD = False
    app.config.AUTO_EXTEND = False
    app.config.TOUCHUP = False  # it rewrites Sanic's classes, once in a process: a second server would not start
    app.config.RESPONSE_TIMEOUT = 3600
    app.config.REQUEST_MAX_SIZE = limits.max_body
    # Reading pauses at this size and hides that a client left; above any body it never does.
    app.config.REQUEST_BUFFER_SIZE = limits.max_body + (64 << 10)


def _keep_log(app: App, log: RequestLog) -> None:
    """Of what asks for something: most other requests come from whoever watches the server."""

    async def note_request(request: Request) -> None:
        if request.method == "POST":
            log.request(request.body)

    async def note_response(request: Request, response: BaseHTTPResponse) -> None:
        if request.method == "POST" and response.body:  # streams are told of as they are sent
            log.response(response.body)

    app.register_middleware(note_request, "request")
    app.register_middleware(note_response, "response")


async def echo_request_id(request: Request, response: BaseHTTPResponse) -> None:
    given = request.headers.get("x-request-id", "")
    response.headers["x-request-id"] = given if REQUEST_ID.fullmatch(given) else secrets.token_hex(16)


async def refuse_large(request: Request, exception: PayloadTooLarge) -> HTTPResponse:
    """Reads on for a moment: a client that is cut off while it sends never sees the answer."""
    stream = request.stream
    if isinstance(stream, Http) and stream.request_body:
        stream.request_max_size = LINGER_BYTES
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                async for _ in stream:
                    pass
        except (TimeoutError, SanicException):
            pass
    return Errors().default(request, exception)
