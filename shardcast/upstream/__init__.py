"""What a node knows of the servers above it: lists, feeds, manifests, leases, reports."""
