"""How a command ends when something is wrong: one line on standard error and an exit code, no traceback."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import click

from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.runtime.errors import LibraryError, PackageError, RequestError, RoomError

OTHER, NO_ROOM, BAD_MODEL, INTERRUPTED = 1, 3, 4, 130  # click itself ends with 2 for wrong usage


@contextmanager
def reported() -> Iterator[None]:
    """Ends the process when the block raises one of our errors."""
    try:
        yield
    except LibraryError as error:
        _end(str(error), OTHER)
    except RoomError as error:
        _end(str(error), NO_ROOM)
    except (CompileError, PackageError) as error:
        _end(str(error), BAD_MODEL)
    except RequestError as error:
        _end(str(error), OTHER)
    except KeyboardInterrupt:
        _end("interrupted", INTERRUPTED)


@contextmanager
def ended_as_interrupted() -> Iterator[None]:
    """Whoever ends the process, or closes its terminal, interrupts the block, which cleans up."""
    with ExitStack() as restored:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is signal.SIG_DFL:
                    restored.callback(signal.signal, number, signal.SIG_DFL)
                    signal.signal(number, signal.default_int_handler)
        yield


def _end(message: str, code: int) -> None:
    click.echo(f"error: {message}", err=True)
    sys.exit(code)
