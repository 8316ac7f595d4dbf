"""badge-agent: badge swipes from a serial line into a Snowflake pipe, each exactly once."""

__version__ = "0.1.0"
