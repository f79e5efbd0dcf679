"""The interceptor for gRPC services: one class, and a driver for each of grpc's two stacks."""

from rpz_auth.grpc.interceptor import AuthInterceptor

__all__ = ["AuthInterceptor"]
