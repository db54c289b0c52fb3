"""``patch-labels``: the true classes of the pixels of every patch."""
