"""``semantic``: label maps, from regions and the clusters of a whole set."""
