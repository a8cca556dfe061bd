"""Backend "segments": compiled segments of a graph with the host between them."""
