"""Searching for the fastest program: the database of trials, the cost model, the search, the budget, and races of whole models."""
