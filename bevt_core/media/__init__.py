"""Videos as a file holds them: the order of the frames, their times, orientation and sizes."""
