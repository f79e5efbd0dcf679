"""What the authority knows and the rules it decides by; pure."""
