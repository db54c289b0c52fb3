"""One pass over the shards: what to compute, and how to merge it."""
