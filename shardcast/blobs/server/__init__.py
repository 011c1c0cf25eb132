"""HTTP in: the hash server, the archive, and the shards of a node by their digest."""
