"""What is pretraining's own: its streams, plan, pictures and probes. The orchestration is in setup."""
