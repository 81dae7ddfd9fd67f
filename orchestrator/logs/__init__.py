"""The logs of runs: lines with time and without secrets, in files that are uploaded while they are written."""
