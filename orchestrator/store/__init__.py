"""Stores of bytes, a local folder or an object store: layout, commit protocol, manifests, verification."""
