"""Secrets: how they are recognized, and masked wherever text leaves a process."""
