"""The processes of a fleet: worker, receiver, Flower, and a health check for each."""

from pacs_tasks.dimse.files import hide_decoders

hide_decoders()
