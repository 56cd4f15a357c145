"""What an operator means, in words, in numpy and in ONNX, and how quantized weights are laid out."""
