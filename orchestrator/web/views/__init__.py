"""View models: what a page shows and the JSON API returns, as frozen dataclasses."""
