"""Clients of a data directory's Unix socket: requests of the owner's programs to the node."""
