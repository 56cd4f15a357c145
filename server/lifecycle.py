"""A server's life: bind, load, serve, drain, end."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import signal
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from sanic import Sanic
from sanic.server import AsyncioServer

from .adapter_changes import AdapterChanges
from .app import App, Limits, Service, create_app
from .gate import Gate
from .model import Model
from .requantize import Requantize, Requantizer
from .request_log import RequestLog
from .streams import Bridge

logger = logging.getLogger("sanic.error")

FAREWELL = 2.0  # seconds for answers that were cut off, and for closing connections
FORCED = 130  # exit code of whoever asks twice


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """Where to listen (port 0: any free one), and how long running answers may take once asked to stop.

    `log_file`: gets every request and every response.
    """

    host: str = "127.0.0.1"
    port: int = 1234
    drain_timeout: float = 30.0
    limits: Limits = field(default_factory=Limits)
    log_file: Path | None = None


class Server:
    """Serves one model. Binds its port at once, and answers 503 there until `load` returned.

    `requantize` makes the model that /re_isq asks for. `on_stop`: called once when it is asked to stop, so that `load`
    can give up. Raises OSError when the port cannot be had, and LogFileError.
    """

    def __init__(
        self,
        load: Callable[[], Model],
        options: ServerOptions,
        on_ready: Callable[[Model], None] = lambda _: None,
        requantize: Requantize | None = None,
        on_stop: Callable[[], None] = lambda: None,
    ) -> None:
        self._load = load
        self._on_stop = on_stop
        self._requantize = requantize
        self._options = options
        self._on_ready = on_ready
        self._log = None if options.log_file is None else RequestLog(options.log_file)
        try:
            self._socket = bind(options.host, options.port)
        except OSError:
            self._close_log()
            raise
        self.port: int = self._socket.getsockname()[1]
        self._stopping = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def url(self) -> str:
        host = self._options.host
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def run(self) -> None:
        """Blocks until stopped, by a signal when this is the main thread. Raises what `load` raises."""
        try:
            with self._socket:
                asyncio.run(self._run())
        finally:
            self._close_log()

    def stop(self) -> None:
        """From any thread, while running: drains, then ends."""
        assert self._loop is not None
        self._loop.call_soon_threadsafe(self._stopping.set)

    def _close_log(self) -> None:
        if self._log is not None:
            self._log.close()

    async def _run(self) -> None:
        self._loop = asyncio.get_running_loop()
        gate = Gate()
        requantizer, changes = Requantizer(gate, self._requantize), AdapterChanges(gate)
        with ThreadPoolExecutor(2, "prepare") as pool:
            service = Service(gate, requantizer, changes, Bridge(self._loop), pool, self._options.limits, self._log)
            app = create_app(f"mistralrs-{secrets.token_hex(8)}", service)
            server = await listen(app, self._socket)
            self._handle_signals()
            try:
                await self._serve(gate)
            finally:
                await close(server)
                Sanic.unregister_app(app)
                await requantizer.finish()
                await changes.finish()

    async def _serve(self, gate: Gate) -> None:
        gate.open(await asyncio.to_thread(self._load))
        try:
            if not self._stopping.is_set():
                self._on_ready(gate.model())
            await self._stopping.wait()
            gate.drain()
            await gate.wait_empty(self._options.drain_timeout)
        finally:
            await gate.close()
            await gate.wait_empty(FAREWELL)

    def _handle_signals(self) -> None:
        if threading.current_thread() is threading.main_thread():
            is_kept = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN  # by nohup, when a terminal closes
            for number in (signal.SIGINT, signal.SIGTERM, *([] if is_kept else [signal.SIGHUP])):
                asyncio.get_running_loop().add_signal_handler(number, self._on_signal)

    def _on_signal(self) -> None:
        if self._stopping.is_set():
            os._exit(FORCED)
        self._stopping.set()
        self._on_stop()


def bind(host: str, port: int) -> socket.socket:
    family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
    return socket.create_server((host, port), family=family, backlog=1024)


async def listen(app: App, bound: socket.socket) -> AsyncioServer:
    logger.disabled = True  # it would advise terminals to turn debugging on
    try:
        server = await app.create_server(
            sock=bound, access_log=False, return_asyncio_server=True, asyncio_server_kwargs={"start_serving": False}
        )
    finally:
        logger.disabled = False
    assert server is not None
    await server.startup()  # type: ignore[no-untyped-call]
    await server.start_serving()  # type: ignore[no-untyped-call]
    return server


async def close(server: AsyncioServer) -> None:
    """Lets connections send what they still hold, for a moment."""
    server.close()  # type: ignore[no-untyped-call]
    deadline = asyncio.get_running_loop().time() + FAREWELL
    while server.connections and asyncio.get_running_loop().time() < deadline:
        for connection in list(server.connections):
            connection.close_if_idle()
        await asyncio.sleep(0.02)
    for connection in list(server.connections):
        connection.abort()
