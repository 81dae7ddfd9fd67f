"""Inference with trained models: generation, description, editing, export, and the model for lmms-eval."""
