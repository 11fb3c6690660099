"""What an encoder did with an image's tokens: recorded, and drawn."""
