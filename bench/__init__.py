"""Speed figures, each measured next to its target; no test depends on them."""
