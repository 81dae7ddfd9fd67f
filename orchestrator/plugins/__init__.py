"""Stage kinds and recipes of other packages and files: found, checked, and recorded with the plans that use them."""
