"""Terminal output: messages, progress, tables, errors. Not here: pages and charts (reporting)."""
