"""``make chaos``: whatever dies, a job ends with one outcome per file, and the PACS holds what the ledger says.

Each case is a failure that is injected at a random moment into a real fleet: Redis with its append-only file, several
worker processes, a PACS in a process of its own. Each round ends with the same closing check (:mod:`.closing`).
"""
