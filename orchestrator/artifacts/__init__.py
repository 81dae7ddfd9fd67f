"""Artifacts in the store: finding and committing them, the shard ledger, checkpoints, run records, takedowns."""
