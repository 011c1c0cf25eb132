"""The routes of an archive, with Casa's answers."""
