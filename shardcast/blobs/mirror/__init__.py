"""A store that fetches missing blobs from other servers."""
