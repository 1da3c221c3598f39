"""The compose file brought up for real: ``make compose-test``. It needs a container engine, and takes minutes."""
