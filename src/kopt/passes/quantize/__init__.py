"""Quantization as passes: numbers found by calibration are their options, QuantizeLinear and DequantizeLinear what they write."""
