"""The commands of `rpz-auth-server`, which work on the files of an authority."""
