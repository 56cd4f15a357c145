"""What command lines log, and where: the only place that configures logging."""

from __future__ import annotations

import logging
import os

PACKAGE = "mistralrs_onnx"
FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def set_up_logging(*, verbose: bool = False) -> None:
    """To standard error: warnings, with `verbose` what happens too, and with MISTRALRS_DEBUG=1 every step."""
    logger = logging.getLogger(PACKAGE)
    logger.setLevel(_level(verbose=verbose))
    if not logger.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter(FORMAT))
        logger.addHandler(handler)
        logger.propagate = False


def _level(*, verbose: bool) -> int:
    if "1" in os.environ.get("MISTRALRS_DEBUG", ""):  # as in mistral.rs: any value with a 1 in it
        return logging.DEBUG
    return logging.INFO if verbose else logging.WARNING
