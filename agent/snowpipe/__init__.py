"""Client of the Snowpipe Streaming REST API: tokens, requests, channels."""
