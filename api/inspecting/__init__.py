"""What a package, a graph or a checkpoint is made of, without running it."""
