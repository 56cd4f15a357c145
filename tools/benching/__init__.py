"""Benchmarks: of ourselves, beside other engines, and of servers."""
