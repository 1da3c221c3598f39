"""The record of every job in Redis: its request, its manifest, its outcomes, and who works on it.

``jobs`` is the way in; ``outcomes``, ``receipts`` and ``commitments`` read and write what belongs to one job. Changes
that must be one step are the scripts in ``lua``.
"""
