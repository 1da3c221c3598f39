"""The DICOM upper layer (PS3.8): associations over TCP and TLS, and the DIMSE messages on them (PS3.7).

``wire`` (PDUs on a socket; ``connect`` and ``tls`` open one) carries ``stream`` (messages; ``command`` encodes command
sets). ``negotiation`` exchanges A-ASSOCIATE PDUs (``pdu``) for the chosen ``contexts``; ``association``
unites them.
"""
