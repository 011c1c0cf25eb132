"""A node's files on the disk: version folders, landings, the output file and their records; no sockets."""
