"""Object masks, eigenvectors and scores from frozen vision transformers over whole image collections."""

__version__ = "0.1.0"
