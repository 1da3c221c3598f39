"""Storage commitment (PS3.4 annex J): the request, and the report of the remote."""
