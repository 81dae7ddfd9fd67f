"""The history of runs in the database: events, tables, leases, telemetry, status, rebuild from the store."""
