"""The routes of a hash server, which answers as hashserver does."""
