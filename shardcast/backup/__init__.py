"""Backups: the directories of many machines in one store, given back to the byte."""
