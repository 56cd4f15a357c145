"""Checkpoint files: each reader checks every number of a file before it uses it."""
