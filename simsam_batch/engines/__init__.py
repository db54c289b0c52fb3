"""How shards get executed: local processes, Ray, torchrun."""
