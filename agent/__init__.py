"""badge-agent: badge swipes from a serial line into a Snowflake pipe, each exactly once."""

__version__ = "0.1.0"

# No clock that shows an earlier day can be right. Moved with a release, by hand, so that a build can be
# repeated; days late on purpose, because a clock that is right must never be called wrong.
RELEASED = "2026-01-01"
