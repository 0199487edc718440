"""What users of Python call beyond the functions of the other rooms: runs, features, datasets, recipes by name."""
