"""The folder of the shipped recipes (YAML) for pretraining, fine-tuning and tokenizer training."""

from pathlib import Path

TRAINER_RECIPES = Path(__file__).resolve().parent
