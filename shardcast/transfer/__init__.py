"""Policy carried out: the shards of a version from its servers into a ShardSink, verified."""
