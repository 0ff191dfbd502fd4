"""Ximilar's Upscaler: the parser of its completions, and a client of its documented API."""
