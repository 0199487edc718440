"""Shards to training batches: datasets, order, loader processes. Not here: labelled clips (clips)."""
