"""HTTP in: the aiohttp application over a Shelf, its bounds, and its routes."""
