"""Architectures: each file turns a config into a tree of specs."""
