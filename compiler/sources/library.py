"""The one place where huggingface_hub is loaded: late, and without its reports to its makers."""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from types import ModuleType


@cache
def hub_library() -> ModuleType:
    """The module huggingface_hub with its `errors`, `file_download` and `utils`."""
    # Before the import, which reads it: else requests tell what else is installed and who runs them.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    for part in ("errors", "file_download", "utils"):
        import_module(f"huggingface_hub.{part}")
    return import_module("huggingface_hub")
