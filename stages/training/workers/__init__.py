"""The processes that train: as plain processes of one machine, or as Ray Train workers on many."""
