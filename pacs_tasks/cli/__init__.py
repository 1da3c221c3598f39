"""The command line: from argv to a request, and from its outcome to stdout, stderr and an exit code.

The files in ``commands`` declare the commands with click alone. Everything that a command needs to do its work is
imported when it runs, so that ``--help`` is quick.
"""
