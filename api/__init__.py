"""Language models on ONNX Runtime: compile a checkpoint, run the package, serve it."""
