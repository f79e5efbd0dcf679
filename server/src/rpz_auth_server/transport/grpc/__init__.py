"""The gRPC services: each request parsed into what a flow takes, each answer written out."""
