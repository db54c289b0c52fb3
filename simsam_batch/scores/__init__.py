"""Exact scores as statistics that merge."""
