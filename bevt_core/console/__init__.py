"""The terminal: what commands print, progress, tables, errors in words. Not here: pages and charts (reporting)."""
