"""The routes of an archive, which answers as Casa does."""
