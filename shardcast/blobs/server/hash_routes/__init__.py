"""The routes of a hash server, with the answers of hashserver."""
