"""From the serial port to a swipe: session, protocols, card formats, hold-off."""
