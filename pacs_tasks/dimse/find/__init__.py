"""C-FIND (PS3.4 annexes C and K).

``c_find`` sends the queries, ``identifier`` encodes their keys, ``answer`` judges the answers, ``match`` decodes the
matches, ``splitting`` divides a query by date where the remote truncates its answer. Other rooms import ``c_find``;
:mod:`pacs_tasks.layout` also decodes text with ``match``.
"""
