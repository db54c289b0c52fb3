"""``hierarchy``: a tree of regions for every image."""
