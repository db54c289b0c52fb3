"""``attention``: where fitted embeddings are attended to in the targets of all pairs."""
