"""HTTP out: a server as typed calls, and the bytes of a shard into its landing."""
