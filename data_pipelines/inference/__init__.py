"""Finished models in use: generation, description, editing, export, evaluation through lmms-eval."""
