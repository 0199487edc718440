"""The recipes of pretraining, fine-tuning and tokenizer training, as YAML files in this folder."""

from pathlib import Path

TRAINER_RECIPES = Path(__file__).resolve().parent
