"""Carrying out a plan: executor, runs of stages, attempts here or as jobs, stage context, gates, logs."""
