"""Replicate: Standard Webhooks prove its deliveries, and its files are gone an hour after the job's end."""
