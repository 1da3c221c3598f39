"""DICOM files (PS3.10) as bytes: read, checked and written without decoding values."""
