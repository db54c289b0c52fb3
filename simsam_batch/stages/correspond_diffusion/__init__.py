"""``simsam correspond diffusion``: points of one image in another by the attention of Stable Diffusion."""
