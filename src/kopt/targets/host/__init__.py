"""Backend "host": what no compiler holds (strings, sequences, optionals, sizes that depend on values), as numpy functions."""
