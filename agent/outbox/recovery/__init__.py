"""A damaged outbox file: found, read as far as it can be, and rebuilt."""
