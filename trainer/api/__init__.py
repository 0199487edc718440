"""The parts of the public Python API that only users call: loaded runs, features, datasets, training by recipe name."""
