"""The webhook: proves the sender and records the delivery."""
