"""One JAX function per ONNX operator."""
