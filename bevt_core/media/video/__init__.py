"""One video file: its packets, its order of frames, and the two ways to decode it."""
