"""``simsam probe``: how well patch features segment, by probes that are fitted on some images and scored on others."""
