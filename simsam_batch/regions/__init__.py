"""Eigenvectors in, masks and boxes out."""
