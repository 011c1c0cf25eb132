"""The client of a backup server: saving folders of a machine, browsing and restoring them."""
