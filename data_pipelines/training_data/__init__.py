"""Training data: index, seeded order, mixture, packing and loader."""
