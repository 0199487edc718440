"""The job of `bevt tokenize`: plan, parts, progress, manifests. Not here: Ray (cluster), listing raw data (sources)."""
