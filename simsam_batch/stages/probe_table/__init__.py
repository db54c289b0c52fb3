"""``probe-table``: the scores of every probe, with intervals over images and what lies between two of them."""
