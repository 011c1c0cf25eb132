"""A store with missing blobs fetched from other servers."""
