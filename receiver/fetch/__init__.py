"""Fetches images from untrusted URLs: checks the URL and each address, and downloads."""
