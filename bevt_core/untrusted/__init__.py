"""Bounded readers of untrusted files. Not here: images and videos (media), checkpoints (weights)."""
