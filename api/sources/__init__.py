"""From what a user calls a model to files of this machine."""
