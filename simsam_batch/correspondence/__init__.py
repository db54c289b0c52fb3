"""Which point of one image is which of another: patch grids and points, descriptors with context, matches."""
