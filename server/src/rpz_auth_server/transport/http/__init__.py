"""What HTTP is for the authority: listening, limits, headers, errors; who serves what stands beside it."""
