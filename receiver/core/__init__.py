"""What every package speaks of: jobs, errors, times and waits. Pure; imports nothing else of ours."""
