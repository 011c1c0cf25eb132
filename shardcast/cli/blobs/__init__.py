"""The commands of the content store: ``shardcast store`` and ``shardcast archive``."""
