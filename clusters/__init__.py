"""Where stages run: cluster profiles, and connecting to them.

Public, and changed only with a note in CHANGELOG.md:
- `clusters.profiles`: `profile_at`, the profile in a file or at an address.
- `clusters.connect`: `connect`, the cluster of a profile.

Example: `connect(profile_at("http://head:8265"))`; `illume run --cluster` and `Workspace.open(cluster=...)` do it.
"""
