"""The DICOM upper layer (PS3.8): associations over TCP and TLS, and the DIMSE messages on them (PS3.7).

``wire`` (PDUs on a socket, with ``tls`` where the remote requires it) carries the messages of ``command``.
``connecting`` opens the socket, ``negotiation`` exchanges A-ASSOCIATE PDUs for the chosen ``contexts``, and
``association`` unites them.
"""
