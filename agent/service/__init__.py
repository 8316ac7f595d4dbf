"""The agent as a running service: put together, supervised, watched."""
