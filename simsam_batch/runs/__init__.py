"""Plan, ledger and execution of stages: shards and bytes, nothing of vision."""
