"""Walks of a data root: its folders and files in a fixed order, and what a cache keeps of them."""
