"""What is told to others: the feed of transitions, and outgoing webhooks."""
