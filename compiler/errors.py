"""What a user did or gave that cannot be compiled."""


class CompileError(Exception):
    """A checkpoint, an option or a place on disk cannot be used: the text says what, what was got, what to do."""
