"""``probe-fits``: probes fitted to the patches of the images of a subset."""
