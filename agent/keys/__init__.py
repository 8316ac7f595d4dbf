"""The agent's private key: generation, PEM files, systemd credentials, lookup."""
