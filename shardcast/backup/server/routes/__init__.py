"""The routes of a backup server."""
