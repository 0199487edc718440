"""Training batches from stored frames: datasets, order, loader processes. Labelled clips are in `trainer.clips`."""
