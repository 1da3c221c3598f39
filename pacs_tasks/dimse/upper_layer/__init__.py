"""Associations over TCP and TLS: the DICOM upper layer (PS3.8) and the messages on it (PS3.7)."""
