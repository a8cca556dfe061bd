"""Translations of operators for the tvm backend, one function per operator."""
