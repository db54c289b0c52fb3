"""A run in the formats of others: one module for each, over the rows as `simsam_batch.runs.reading` gives them."""
