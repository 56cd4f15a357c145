"""How a command ends when something is wrong: one line on standard error and an exit code, no traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

from mistralrs_onnx.compiler.errors import CompileError
from mistralrs_onnx.runtime.errors import PackageError, RequestError

OTHER, NO_ROOM, BAD_MODEL, INTERRUPTED = 1, 3, 4, 130  # click itself ends with 2 for wrong usage


@contextmanager
def reported() -> Iterator[None]:
    """Ends the process when the block raises one of our errors."""
    try:
        yield
    except (CompileError, PackageError) as error:
        _end(str(error), BAD_MODEL)
    except RequestError as error:
        _end(str(error), OTHER)
    except KeyboardInterrupt:
        _end("interrupted", INTERRUPTED)


def _end(message: str, code: int) -> None:
    click.echo(f"error: {message}", err=True)
    sys.exit(code)
