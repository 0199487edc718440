"""What is fine-tuning's own: its clips, plan and model. The orchestration is in setup."""
