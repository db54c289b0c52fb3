"""``simsam correspond``: points of one image in another, over whole sets of pairs."""
