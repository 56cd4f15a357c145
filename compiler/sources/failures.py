"""What can go wrong between here and the hub, in words for the one who asked for the model."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistralrs_onnx.compiler.errors import CompileError

from .library import hub_library
from .repository import Repository
from .token_source import TokenSource


class UnreachableError(CompileError):
    """The hub did not answer, or not in a way that says anything about the model."""


@dataclass(frozen=True, slots=True)
class Access:
    """Which token a request carries, and where it is from. The token is in no text of it."""

    source: TokenSource
    is_sent: bool

    def __str__(self) -> str:
        if self.is_sent:
            return f"sent: the token of {self.source}"
        if self.source.kind == "cache":
            return "no token was sent: set HF_TOKEN, log in with `hf auth login`, or use --token-source"
        return f"no token was sent, because the token source is {self.source}"


@contextmanager
def hub_failures(repository: Repository, access: Access) -> Iterator[None]:
    """Turns errors of the hub, the network and the disk into CompileError."""
    errors = hub_library().errors
    try:
        yield
    except errors.HfHubHTTPError as error:
        raise _answered(error, errors, repository, access) from error
    except (errors.HTTPError, errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError) as error:
        raise UnreachableError(
            f"there is no local path {repository.name}, and {repository.endpoint} cannot be reached "
            f"({_reason(error)}): check the path, or else the connection, HF_ENDPOINT and proxies."
        ) from error
    except OSError as error:
        raise _on_disk(error, repository.cache) from error


def _answered(error: Any, errors: Any, repository: Repository, access: Access) -> CompileError:
    status = error.response.status_code
    match error:
        case errors.GatedRepoError():
            return CompileError(f"{repository} is gated: accept its licence at {repository.url}, then retry ({access})")
        case errors.RepositoryNotFoundError():
            return CompileError(
                f"there is no local path {repository.name}, and {repository.endpoint} has no repository "
                f"{repository.name}, or it is private ({access})"
            )
        case errors.RevisionNotFoundError():
            return CompileError(
                f"{repository.name} has no revision {repository.revision}: see its branches and tags at "
                f"{repository.url}/tree/main, or leave the revision out"
            )
        case errors.EntryNotFoundError():
            return CompileError(f"{repository} lost a file while it was fetched: try again")
    if status in (401, 403):
        return CompileError(
            f"{repository.endpoint} refuses access to {repository.name} with status {status} ({access})"
        )
    return UnreachableError(f"{repository.endpoint} answered with status {status}: try again later.")


def _reason(error: BaseException) -> str:
    cause = error.__cause__ or error
    text = re.sub(r"^\[Errno -?\d+\] ", "", str(cause).strip())
    return text.splitlines()[0] if text else type(cause).__name__


def _on_disk(error: OSError, cache: Path) -> CompileError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return CompileError(f"the disk of {cache} is full: make room, or set HF_HOME; what is fetched is kept")
    if error.errno is None:
        return UnreachableError(
            f"the transfer broke off ({_reason(error)}): run it again, it goes on where it stopped."
        )
    return CompileError(f"cannot write to {error.filename or cache}: {error.strerror}")
