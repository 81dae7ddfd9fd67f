"""Shared by several commands: options, targets, questions, text formatting, the live view."""
