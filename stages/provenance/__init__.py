"""Trace and takedown of samples over the runs of a store, and the signed receipt."""
