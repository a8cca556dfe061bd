"""Quantization of whole models: calibrate, choose, rewrite, compare, report."""

from __future__ import annotations

from kopt.quantization.api import QUANTIZED, Options, Quantized, is_quantized, quantize, quantize_graph

__all__ = ["QUANTIZED", "Options", "Quantized", "is_quantized", "quantize", "quantize_graph"]
