"""How callers reach the flows."""
