"""Text-driven style of regions of an image: a small network trained by what CLIP and VGG see. Pure torch."""
