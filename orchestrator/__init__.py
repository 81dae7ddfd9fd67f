"""The durable kernel: recipe, plan, identity, artifacts, ledgers, leases, retries, events."""
