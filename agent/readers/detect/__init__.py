"""Finding out what is on a serial port: scan, match, advice."""
