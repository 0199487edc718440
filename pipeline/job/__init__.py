"""The job of `bevt tokenize`: plan, parts, progress, manifests. Not here: Ray itself (cluster), data sets (sources)."""
