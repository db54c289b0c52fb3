"""``subsets``: which images probes are fitted on, for every budget of labels, and which they are scored on."""
