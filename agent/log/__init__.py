"""What is logged, how often, and where to: MESSAGE_IDs, rate-limited failures, the journal."""
