"""TLS for both ports: the same certificates, which follow their files."""
