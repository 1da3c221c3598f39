"""Inputs gone wrong, in this process: ``make fuzz`` plays a million, ``tests/acceptance/test_fuzz.py`` ten thousand.

Each target takes one kind of untrusted input and allows the errors that its reader documents, and nothing else.
Hypothesis makes requests and command lines, and shrinks one that fails to its smallest form. Encoded input (PDUs, task
messages, files, identifiers) is valid input that is changed at random places. Conversations over sockets have tests
of their own: see :mod:`tests.support.fuzzing`.
"""
