"""Times of stored rows: the boots they were read in, and the timestamps they are sent with."""
