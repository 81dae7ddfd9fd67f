"""Checkpoints of a training: slices of tensors that many workers write, and that any number of workers read."""
