"""Shards -> checkpoints and metrics, on torch.distributed."""
