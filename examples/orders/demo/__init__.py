"""The whole story in the terminal: an authority, two services that obey it, and an App that calls them."""
