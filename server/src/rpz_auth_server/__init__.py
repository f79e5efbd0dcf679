"""The token authority."""
