"""Pruning: which channels belong together, cutting them, and masks of zeros."""
