"""Probes of frozen patch features: fitted on some images, they give every patch a distribution over classes."""
