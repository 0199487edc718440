"""Paths on disks and object stores: atomic writing, locks, listing, caching.

Not here: what the files mean (dataset).
"""
