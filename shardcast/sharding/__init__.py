"""Payload ─▶ shards: cut, hash and store in one pass; and shards that are here already ─▶ their manifest."""
