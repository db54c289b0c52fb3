"""``regions``: every image cut into regions, each with a box and a feature."""
