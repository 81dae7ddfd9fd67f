"""Reports on finished runs: outputs, differences, lineage, attestation."""
