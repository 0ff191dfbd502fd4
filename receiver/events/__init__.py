"""The feed of transitions, and the outgoing webhooks that follow it."""
