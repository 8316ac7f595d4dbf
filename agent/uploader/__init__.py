"""Delivery from the outbox to Snowflake: sender, request size, refusals, rate limit."""
