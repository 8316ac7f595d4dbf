"""The machine's clocks, and the model of how far off the wall clock was."""
