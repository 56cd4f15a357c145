"""Writes the pages of docs/reference from the code: `python -m mistralrs_onnx.tools.reference docs/reference`."""
