"""The way into Snowflake: tokens, requests, one channel."""
