"""Plans a recipe: what runs, what is reused and why; identities of stages, digests of code and sources."""
