"""Turns: a message is accepted, its context assembled, its reply generated, stored and told to whoever reads it."""
