"""The latency gate: budgets, paired comparison, verdicts and their outputs."""
