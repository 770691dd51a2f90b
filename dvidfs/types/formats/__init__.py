"""Bytes to values and back: wire and file formats as pure functions, each in a module of its own."""
