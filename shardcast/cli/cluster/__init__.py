"""``shardcast cluster``: whole networks, over ssh or on this machine."""
