"""Passes that recognise patterns and replace them by fused operators."""
