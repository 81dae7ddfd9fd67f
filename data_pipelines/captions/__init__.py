"""Captions: reading them from records, their language, the patterns of broken text and of personal data."""
