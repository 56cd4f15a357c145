"""The command lines, benchmarks, inspection, tiny test checkpoints."""
