"""The routes of a node, a module a path or a few that belong together."""
