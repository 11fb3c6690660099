"""Released weights in this package's terms."""
