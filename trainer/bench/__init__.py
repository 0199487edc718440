"""What training costs: a step on a device, clips from a loader."""
