"""The synthetic dataset of coloured shapes: scenes, drawing, texts, and the oracle that reads images back."""
