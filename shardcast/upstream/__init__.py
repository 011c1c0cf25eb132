"""A node's knowledge of the servers above: lists, feeds, manifests, leases, reports."""
