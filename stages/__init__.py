"""Stage kinds of the ILLUME+ recipe."""
