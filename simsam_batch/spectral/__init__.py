"""Affinities, graph Laplacians and their eigenvectors."""
