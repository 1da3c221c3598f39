"""Processes that a command starts, shows, watches and ends."""
