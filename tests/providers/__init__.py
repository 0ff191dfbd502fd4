"""Every provider over the whole program, and each against its vectors."""
