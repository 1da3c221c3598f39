"""Messages between those who enqueue and the workers: what a message may be, and where the others go.

Other rooms may import ``envelope`` (reads and judges raw messages), ``dead_letters`` (those that were refused),
``shown`` (what events and Flower show of a task) and ``signature``.
"""
