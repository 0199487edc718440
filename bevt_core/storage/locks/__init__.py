"""Locks on local files: who writes a folder, who reads it, and what a lock file says about its owner."""
