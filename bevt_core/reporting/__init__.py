"""Results as pages, charts and pictures. Not here: what a terminal shows (console)."""
