"""The work on jobs: fetch, verify, archive, and what each failure means."""
