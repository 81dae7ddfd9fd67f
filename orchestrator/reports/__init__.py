"""Questions to finished runs: differences, outputs, lineage, attestation."""
