"""Conversion of released weights to this package's names."""
