"""Failures: their classes, and the policy of retries."""
