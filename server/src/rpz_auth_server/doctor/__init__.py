"""`rpz-auth-server doctor`: looks an authority over, and changes nothing."""
