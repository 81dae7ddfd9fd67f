"""Runs a plan: executor, stage runs, local and job attempts, the context of a stage, gates, logs."""
