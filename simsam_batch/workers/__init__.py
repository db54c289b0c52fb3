"""What the workers of stages share: records ahead of the device, batches of images, models, refinement, time."""
