"""Generated from the .proto files beside it; see `scripts/generate` of the project."""
