"""Kills and restarts everything under load, and checks that nothing was lost; see `__main__`."""
