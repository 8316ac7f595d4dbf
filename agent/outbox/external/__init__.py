"""What other processes may do with the outbox while the agent runs."""
