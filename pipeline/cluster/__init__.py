"""The Ray that a job runs on: started, reached, watched and ended. Not here: what runs on it (job)."""
