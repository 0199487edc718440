"""Videos, frame folders and pictures as files hold them: kinds, the order of the frames, times, orientation, sizes."""
