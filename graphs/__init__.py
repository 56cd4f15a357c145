"""Draws blocks, decoders, adapters, classifiers from specs and named weights; knows no checkpoint and no model name."""
