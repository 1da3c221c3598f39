"""What people type, as checked values: options, paths and CSV files."""
