"""Where stages run: cluster profiles, and connecting to them."""
