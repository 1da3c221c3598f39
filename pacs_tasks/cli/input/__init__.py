"""From what people type, and from their files, to values."""
