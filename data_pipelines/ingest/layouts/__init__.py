"""Layouts: which keys of an object hold its turns, captions and images, in the spellings that datasets use."""
