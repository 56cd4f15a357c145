"""Packages that were compiled on the way to something else."""
