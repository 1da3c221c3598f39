"""The tasks that retrieve. Other rooms import :mod:`.tasks` only.

A part makes attempts of two kinds: :mod:`.fetch` brings its instances here, :mod:`.forward` sends them to another PACS.
"""
