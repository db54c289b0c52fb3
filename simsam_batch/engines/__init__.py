"""How shards get executed: local processes, Ray, torchrun, or the very process that asks."""
