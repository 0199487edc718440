"""The Ray that a job runs on: start it, connect, watch and stop it. Not here: the work that runs on it (job)."""
