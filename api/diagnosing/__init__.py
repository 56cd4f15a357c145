"""What is so on a machine, and what to do about it."""
