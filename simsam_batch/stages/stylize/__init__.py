"""``simsam stylize``: objects and backgrounds of a run's masks, restyled by text."""
