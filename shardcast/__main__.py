"""``python -m shardcast`` is ``shardcast``."""

from shardcast.cli.main import main

main()
