"""Package in, tokens out: schedule, cache, run, sample, constrain."""
