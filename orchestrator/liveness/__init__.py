"""Who is alive: drivers by their leases, jobs by their records and by the cluster."""
