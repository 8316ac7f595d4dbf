"""The speed of the agent, each figure next to its floor or target, measured in the same run."""
