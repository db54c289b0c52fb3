"""``probe-maps``: label maps of images that were not fitted on, by every fitted probe, compared with truth."""
