"""Proves that a file is the promised image: structure, then decoding."""
