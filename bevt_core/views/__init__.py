"""Spatial views of a frame: drawn once from a seed, replayed bit for bit.

Not here: augmentation for fine-tuning (trainer/clips).
"""
