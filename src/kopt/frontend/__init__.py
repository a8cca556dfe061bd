"""ONNX in and out: reading, upgrading to the newest operator forms, exporting."""
