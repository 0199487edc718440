"""The dataset on disk, format version 1: frame stores and token sets, each with its writer and its reader.

Not here: files on disks and object stores (bevt_core/storage).
"""
