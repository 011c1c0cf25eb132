"""The backup server: accounts, packs and snapshots of its clients, pruned and checked."""
