"""Quantization of whole models: calibrate, choose, rewrite, compare, report."""

from __future__ import annotations

from kopt.quantization.api import Options, Quantized, quantize, quantize_graph

__all__ = ["Options", "Quantized", "quantize", "quantize_graph"]
