"""The unified multimodal language model: continuous image input, discrete image output (ILLUME+, arXiv 2504.01934)."""
