"""The private key: made, loaded, stored as a systemd credential, looked up."""
