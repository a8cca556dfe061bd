"""Gradients and moments of imported graphs: recovering the accuracy of compressed models without labels."""
