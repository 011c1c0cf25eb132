"""Payload ─▶ shards: cut, hash and store in one pass; and shards already here ─▶ their manifest."""
