"""The parts of the public Python API that exist for users only: runs, features, datasets, training by recipe name."""
