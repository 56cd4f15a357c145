"""What a caller asked for that cannot be done."""

from __future__ import annotations


class RequestError(Exception):
    """One request cannot be served; no other is touched.

    `status` is the HTTP status, `code` a stable word for programs, `param` the request field at fault (or None).
    """

    def __init__(
        self, message: str, *, status: int = 400, code: str = "invalid_value", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.param = param


class PackageError(Exception):
    """A package cannot be loaded: the text says which file, what was expected, what was got, what to do."""


class LibraryError(PackageError):
    """No package can be loaded: ONNX Runtime is missing, or two builds of it are there."""


class RoomError(PackageError, ValueError):
    """Keys and values of the longest request that is allowed do not fit into the memory that is theirs."""
