"""Recovery of a damaged outbox file: detect, read what is readable, rebuild."""
