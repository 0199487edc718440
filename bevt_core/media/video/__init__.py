"""One video file: its packets, its frame order, and two ways to decode it with PyAV."""
