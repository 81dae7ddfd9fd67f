"""Where samples went: search for samples and images in shards, datasets, token files and training orders."""
