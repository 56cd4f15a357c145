"""Tokenizers: rebuilt from what a checkpoint says into the files that other programs read."""
