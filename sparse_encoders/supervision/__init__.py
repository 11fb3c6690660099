"""What teaches a selector: labels from boxes, pseudo labels from the decoder."""
