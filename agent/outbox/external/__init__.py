"""Access of other processes to the outbox while the agent runs: read, release holds, request replays."""
