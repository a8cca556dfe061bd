"""The intermediate representation: a frozen, typed SSA graph in ONNX vocabulary."""
