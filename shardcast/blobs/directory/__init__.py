"""Directories of blobs as hashserver keeps them: layout, reading, verifying, putting."""
