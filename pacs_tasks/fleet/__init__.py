"""What the workers of a fleet agree on about a remote, in Redis.

``associations`` leases associations, ``outages`` parks the jobs of remotes that are down, ``receivers`` announces
receivers and what jobs expect at them, ``refusals`` remembers which retrieve methods a remote refused.
"""
