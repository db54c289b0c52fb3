"""Images in, one feature vector per patch out."""
