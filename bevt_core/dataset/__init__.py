"""The dataset on disk, version 1: frame stores and token sets, writer and reader side by side.

Not here: storage itself.
"""
