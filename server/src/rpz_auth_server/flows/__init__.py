"""One file per thing that a caller can ask for."""
