"""Validation beside a training: by a worker of its own, of checkpoints that are committed."""
