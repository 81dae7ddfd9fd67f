"""Training data: index, seeded order, mixture, packing, loading."""
