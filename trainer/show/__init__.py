"""Presentation of results: visualisations, model cards, the paper's tables beside one's own runs."""
