"""The diffusion decoder: codes of the tokenizer to images of twice their resolution (ILLUME+, arXiv 2504.01934)."""
