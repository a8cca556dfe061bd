"""Targets: which device a model is compiled for, and the fingerprint of this machine."""
