"""One module for each page: what is asked, and which view answers it."""
