"""Evaluation of finished models: benchmarks, reconstruction, scores and their summary."""
