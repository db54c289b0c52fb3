"""``embeddings``: for every point of a source an embedding of Stable Diffusion that is attended to there."""
