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

    def __init__(self, formatter: logging.Formatter) -> None:
        super().__init__(sys.stderr)
        self.setFormatter(formatter)

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class Plain(logging.Formatter):
    """For who sits before it: when it was and who says it does not matter."""

    def format(self, record: logging.LogRecord) -> str:
        return f"{record.levelname.lower()}: {record.getMessage()}"


def set_up_logging(*, verbose: bool = False, dated: bool = True) -> None:
    """To standard error: warnings, with `verbose` throughput and the like too, with MISTRALRS_DEBUG=1 every step.

    `dated`: with the time, as MISTRALRS_DEBUG=1 has it always.
    """
    logger = logging.getLogger(PACKAGE)
    logger.setLevel(_level(verbose=verbose))
    if not any(isinstance(handler, StandardError) for handler in logger.handlers):
        is_plain = not dated and logger.level == logging.NOTSET
        logger.addHandler(StandardError(Plain() if is_plain else logging.Formatter(FORMAT)))


def _level(*, verbose: bool) -> int:
    if "1" in os.environ.get("MISTRALRS_DEBUG", ""):  # as in mistral.rs: any value with a 1 in it
        return logging.DEBUG
    return logging.INFO if verbose else logging.NOTSET  # that of the root, which shows warnings
