"""The tasks that verify what a job has sent: by C-FIND in :mod:`.tasks`, by storage commitment in :mod:`.commit`.

Other rooms import these two modules, and :mod:`.inventory`, which finds out which instances a remote holds.
"""
