"""Raw data -> frame store and token set, on Ray Data."""
