"""Quantization of whole models: calibrate, choose, rewrite, compare, report."""

from __future__ import annotations

from kopt.quantization.api import Quantized, is_quantized, quantize, quantize_graph
from kopt.quantization.options import QUANTIZED, Options

__all__ = ["QUANTIZED", "Options", "Quantized", "is_quantized", "quantize", "quantize_graph"]
