"""Fine-tuning: its clips, model, task, plan and validation. Sessions and run directories are in setup and runs."""
