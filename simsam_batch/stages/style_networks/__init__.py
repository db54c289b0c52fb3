"""Networks that restyle: what they are fitted to, and one of each text for a whole run."""
