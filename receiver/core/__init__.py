"""What every package speaks of: jobs, errors, times and waits. It imports no other package."""
