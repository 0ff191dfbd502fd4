"""Submitting images to the provider: each once as far as that can be known, and recorded in the ledger."""
