"""`python -m mistralrs_onnx.tools.reference FOLDER [--check]`."""

from __future__ import annotations

from .pages import main

main()
