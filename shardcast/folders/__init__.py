"""A folder as a payload: its entries, their tar, the shards of the tar, and the way back."""
