"""Search for duplicates: equal bytes and pixels, near perceptual hashes, near embeddings."""
