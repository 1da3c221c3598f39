"""The Storage SCP (PS3.4 annex B): the receiver of instances and of reports on storage commitment."""
