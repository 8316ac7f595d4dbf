"""From bytes to frames: line and fixed-length framers, noise, EM4100 ids."""
