"""Pruning whole models to a ratio or to a measured latency."""

from __future__ import annotations

from kopt.pruning.api import Pruned, prune

__all__ = ["Pruned", "prune"]
