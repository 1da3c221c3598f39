"""The processes of a fleet: worker, receiver, Flower, and how to ask each whether it is well."""
