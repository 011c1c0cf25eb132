"""The clients of the Unix socket in a data directory, through which its node takes requests of its owner."""
