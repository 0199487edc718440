"""Runs for people: visualisations, model cards, the paper's tables beside one's own runs."""
