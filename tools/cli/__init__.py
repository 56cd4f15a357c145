"""What command lines have in common: options, where they come from, and how a command ends."""
