"""The edge: one thin file a command."""
