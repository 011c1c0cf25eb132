"""``shardcast backup``: one module a command."""
