"""``transfer``: masks or label maps of a few images carried over to all others of a set, by stored features."""
