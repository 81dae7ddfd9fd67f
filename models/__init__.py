"""DualViTok, the unified MLLM, the diffusion decoder, their losses and weights on disk."""
