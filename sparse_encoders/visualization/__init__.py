"""Records and pictures of the tokens that an encoder refines in an image."""
