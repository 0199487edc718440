"""Spatial views of a frame: drawn once by a seed, replayed bit for bit.

Not here: augmentation of fine-tuning (trainer/clips).
"""
