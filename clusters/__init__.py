"""Where a recipe runs: profiles and connections."""
