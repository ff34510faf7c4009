"""Numbered entries that server processes share through Redis. What they say is nothing to this room."""
