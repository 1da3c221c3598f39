"""The processes of a fleet: worker, receiver, Flower, and a health check for each."""
