"""The client of a backup server: what a machine saves there, and gets back."""
