"""Measurements of rpz-auth: one module for each subject, all on this machine and in bounded time."""
