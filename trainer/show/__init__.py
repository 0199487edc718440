"""Results for readers: visualisations, model cards, the paper's tables beside one's own runs."""
