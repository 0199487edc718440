"""Run directories: writing them, their status, listing and comparing them."""
