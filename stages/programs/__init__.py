"""What is trained: config and training program of each model."""
