"""A watched run on disk, both directions."""
