"""What all routes share: problem documents, guards, protocol fixes, limits."""
