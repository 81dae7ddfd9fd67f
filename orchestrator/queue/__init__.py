"""The queue: records of what is to run, who goes next, and which stages share a cluster."""
