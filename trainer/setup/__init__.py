"""From a recipe to a running session: models, start weights, cost, memory. Not here: what one stage alone needs."""
