"""What the workers of a fleet agree on, in Redis.

``remotes``: leases of associations, remotes that are down, retrieve methods that a remote has refused. ``receivers``:
which receivers run, and what jobs expect at them.
"""
