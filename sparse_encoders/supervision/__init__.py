"""Labels and losses that train selectors: from boxes, and from the decoder's attention."""
