"""Files that other programs wrote, read within bounds. Not here: pictures and videos (media), checkpoints (weights)."""
