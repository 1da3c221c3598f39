"""Write the pages of ``docs/reference`` that describe the code: ``python -m docs.generator``.

A unit test fails while a page differs from the code.
"""
