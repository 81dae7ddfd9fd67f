"""Files of an ingest: what lies where, which of it is read, and the hand that gives it out and counts it."""
