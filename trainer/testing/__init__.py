"""A trained model on labelled clips: multi-view testing, prediction, features, temporal analysis."""
