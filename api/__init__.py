"""Language models on ONNX Runtime: compile a checkpoint, run the package, serve it.

Names are imported when they are first used, so that `import mistralrs_onnx` takes no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__all__ = ["Architecture", "CompileError", "PackageError", "RequestError", "VisionArchitecture", "Which"]

if TYPE_CHECKING:
    from .compiler.errors import CompileError
    from .runtime.errors import PackageError, RequestError
    from .which import Architecture, VisionArchitecture, Which
else:
    EXPORTS = {  # names, and the module that has each
        "Architecture": "which",
        "CompileError": "compiler.errors",
        "PackageError": "runtime.errors",
        "RequestError": "runtime.errors",
        "VisionArchitecture": "which",
        "Which": "which",
    }

    def __getattr__(name: str) -> object:
        if name not in EXPORTS:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f".{EXPORTS[name]}", __name__), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
