"""DualViTok: an image tokenizer with a semantic and a pixel codebook (ILLUME+, arXiv 2504.01934, section 3.1)."""
