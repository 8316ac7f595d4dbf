"""The SQL that receives the rows: pure renderers of the scripts an administrator runs in Snowflake."""
