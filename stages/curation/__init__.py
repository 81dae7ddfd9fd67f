"""Workers and maps of the stage kind `curate`."""
