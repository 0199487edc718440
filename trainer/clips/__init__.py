"""Labelled clips of fine-tuning and testing: sources, sampling, augmentation, views. Not here: token sets (data)."""
