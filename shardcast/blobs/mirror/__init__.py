"""A store that fetches what it lacks from other servers."""
