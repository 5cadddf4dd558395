"""External tools: found, run and read, one file a tool."""
