"""Records, shards, filters, duplicates, tokenizing, packing, loading, audit."""
