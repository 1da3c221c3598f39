"""What tests stand on: real peers, real Redis, real workers, DICOM files, and waits with a limit."""
