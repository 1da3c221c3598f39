"""The tasks that verify what a job has sent: by C-FIND and by storage commitment.

Other rooms import :mod:`.tasks`, and :mod:`.inventory`, which finds out which instances a remote holds.
"""
