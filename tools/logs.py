"""What command lines log, and where: the only place that configures logging."""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

PACKAGE = "mistralrs_onnx"
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class StandardError(logging.StreamHandler[TextIO]):
    """Writes to what is standard error at that time."""

    def __init__(self) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(logging.Formatter(FORMAT))

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def set_up_logging(*, verbose: bool = False) -> None:
    """To standard error: warnings, with `verbose` throughput and the like too, with MISTRALRS_DEBUG=1 every step."""
    logger = logging.getLogger(PACKAGE)
    logger.setLevel(_level(verbose=verbose))
    if not any(isinstance(handler, StandardError) for handler in logger.handlers):
        logger.addHandler(StandardError())


def _level(*, verbose: bool) -> int:
    if "1" in os.environ.get("MISTRALRS_DEBUG", ""):  # as in mistral.rs: any value with a 1 in it
        return logging.DEBUG
    return logging.INFO if verbose else logging.NOTSET  # that of the root, which shows warnings
