"""DICOM files (PS3.10) as bytes: read, verified and written without decoding values."""
