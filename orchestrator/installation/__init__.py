"""What is installed: our version and commit, and the optional packages."""
