"""The built-in world of coloured shapes: scenes, drawing, language, and the oracle that reads images back."""
