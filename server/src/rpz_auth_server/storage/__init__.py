"""Where the authority keeps what it knows."""
