"""``features``: patch features of every image, several facets and blocks from one forward pass."""
