"""The window: pages, JSON and a stream of events over the database and the store."""
