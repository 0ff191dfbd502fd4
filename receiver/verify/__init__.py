"""Proves that bytes are the promised image: structure, then decoding."""
