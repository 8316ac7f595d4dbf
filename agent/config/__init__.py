"""The configuration file: read, checked and written."""
