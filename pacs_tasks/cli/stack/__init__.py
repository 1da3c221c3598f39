"""Processes that a command starts, shows, watches and ends: workers, receivers, Flower, and the demo."""
