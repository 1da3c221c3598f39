"""Instances that are not files on a disk: members of archives, and objects at URLs.

Other rooms import from :mod:`.archive` and :mod:`.objects`, and from :mod:`.zip_directory`, which loads no pydicom.
"""
