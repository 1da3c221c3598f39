"""``make bench``: pacs-tasks beside DCMTK and pynetdicom, on one machine, in one run.

::

    __main__    arguments, one work after the other
       ├ works          the rows of the table: sending, receiving, retrieving, growth
       │   ├ programs   the contestants: DCMTK's, pynetdicom's, ours (fleet, sender)
       │   ├ line       a slow line between two of them
       │   ├ memory     what a worker holds
       │   └ evidence   what a peer holds: a figure counts only if everything arrived
       ├ measuring      the contestants take turns
       └ results        what was measured -> report (table, Markdown), picture (SVG), JSON
"""
