"""Backends: compilers that turn a graph into native code."""
