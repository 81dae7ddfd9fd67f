"""The durable map over shards: worker processes, bisection of failing shards, quarantine."""
