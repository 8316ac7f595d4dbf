"""Logging: MESSAGE_IDs, rate-limited failure logs, the systemd journal."""
