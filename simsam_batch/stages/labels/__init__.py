"""``labels``: nodes of all trees that are alike get the same label."""
