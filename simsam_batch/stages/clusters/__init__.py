"""The clusters of a whole set: one fit over what all images have."""
