"""The texts in other languages, and how a text finds its translation."""
