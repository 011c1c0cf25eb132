"""The command line as ``python -m shardcast``."""

from shardcast.cli.main import main

main()
