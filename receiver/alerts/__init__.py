"""Alerts to where people are: which conditions there are, when each is told, and by which channels."""
