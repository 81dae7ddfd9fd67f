"""The training loop on Ray Train: driver, worker loop, checkpoints, reports."""
