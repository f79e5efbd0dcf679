"""Other programs that renew access tokens, for comparison in the same run."""
