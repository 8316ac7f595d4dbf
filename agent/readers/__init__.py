"""From the serial line to a swipe: port, protocol, Wiegand, hold-off, session."""
