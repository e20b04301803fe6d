"""The command line, with a short file per command."""
