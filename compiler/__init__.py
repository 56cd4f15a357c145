"""Checkpoint in, package out: read, recognise, quantize, draw, check, save."""
