"""Bounded readers of untrusted archives: their members are listed from headers, and copied out one at a time."""
