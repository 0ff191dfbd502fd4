"""The archive: one interface over a folder and S3. It proves that it keeps what it was given."""
