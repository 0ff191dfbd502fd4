"""Submits images to the provider, each once as far as that can be known, and records them in the ledger."""
