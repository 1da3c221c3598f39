"""What the workers of a fleet agree on, in Redis.

``leases``: who may have an association with a remote. ``outages``: which remotes are down. ``pace``: what a remote
takes a second, and jobs that wait for its hours. ``receivers``: which receivers run, and what jobs expect at them.
``senders``: from whom. ``tuning``: how many associations a remote bears. ``webhooks`` and ``audits``: what is due to be
delivered or written.
"""
