"""A folder as a payload: its entries, the tar made of them, the shards of that tar, and the way back."""
