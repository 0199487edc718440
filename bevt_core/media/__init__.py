"""Reading videos, frame folders and pictures: kinds of files, frame order, times, orientation and sizes."""
