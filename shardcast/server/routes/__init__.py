"""The routes of a node, a module for a path or a few related ones."""
