"""Kernels written as loop nests for TVM: products and convolutions with what follows them fused in, compiled ahead of time."""
