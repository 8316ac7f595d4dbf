"""Delivery from the outbox to Snowflake: senders, refusals, failures, poll timer, rate limit."""
