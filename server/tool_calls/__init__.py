"""Calls of functions in what a model writes: how families spell them, told apart from content while it is written."""
