"""The archive: one interface over a folder and S3. Each stored object is proved by its SHA-256."""
