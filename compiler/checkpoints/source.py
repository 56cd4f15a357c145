"""One open checkpoint file: exact pieces of it, and errors that carry its name; knows no format."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mistralrs_onnx.compiler.errors import CompileError

from .cursor import FieldError


class Source:
    """A file of which pieces are read when they are asked for, by any thread. Raises OSError as `open` does."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise CompileError(f"{path}: no such file")
        self.path = path
        self._file = path.open("rb", buffering=0)
        self._turn = Lock()
        self.size = os.fstat(self._file.fileno()).st_size

    def map(self, most: int) -> mmap.mmap:
        """The first bytes, at most `most`; the file must not be empty."""
        return mmap.mmap(self._file.fileno(), min(self.size, most), access=mmap.ACCESS_READ)

    def read(self, offset: int, num_bytes: int, what: str) -> NDArray[np.uint8]:
        """Bytes at an offset, (num_bytes,). Raises CompileError when the file has become shorter or unreadable."""
        buffer, got = np.empty(num_bytes, np.uint8), 0
        with about(self.path), self._turn:
            self._file.seek(offset)
            while got < num_bytes and (more := self._file.readinto(buffer.data[got:])):
                got += more
        if got != num_bytes:
            raise CompileError(f"{self.path}: {what}: wanted {num_bytes} bytes, got {got}: the file changed")
        return buffer

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def about(path: Path) -> Iterator[None]:
    """Puts the name of a file before what is wrong with it."""
    try:
        yield
    except OSError as error:
        raise CompileError(f"{path}: cannot be read: {error.strerror or error}") from error
    except FieldError as error:
        raise CompileError(f"{path}: {error}") from error
