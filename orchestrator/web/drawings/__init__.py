"""Pictures of a run, drawn on the server: pure functions from small values to SVG; the stylesheet colours them."""
