"""Locks on local files: writers and readers of a folder, and the owner noted in a lock file."""
