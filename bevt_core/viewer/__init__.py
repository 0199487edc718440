"""The server of `bevt view`: pages in a browser on this machine. Not here: what the pages show (pipeline, trainer)."""
