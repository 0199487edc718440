"""What the job and its dataset cost: engine overhead, bytes per frame."""
