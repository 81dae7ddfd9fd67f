"""Slurm: each attempt at a stage is a Slurm job of its own, with a Ray that lives as long as the job."""
