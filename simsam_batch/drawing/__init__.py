"""What two rooms draw: overlays, region trees, text; photographs and arrays in, pictures out."""
