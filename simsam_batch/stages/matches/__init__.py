"""``matches``: points of one image in another, by stored features, and how many of them are right."""
