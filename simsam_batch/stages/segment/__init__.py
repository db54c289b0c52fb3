"""``segment``: an object mask and eigenvectors for every image."""
