"""A worker's channel to its broker that outlives the loss of its connection.

In kombu 5.7.0 a channel that waits for messages cannot be closed once its connection has died: ``close`` reads what is
on the wire, meets the dead connection and gives up half-way. It is closed a second time later, when nothing knows the
broker's address any more; putting back what is not acknowledged then raises ``AttributeError``, and the worker ends
("Unrecoverable error"). So a Redis that is restarted would end each worker that has a task and a free process.
"""

from __future__ import annotations

from kombu.transport import redis
from redis.exceptions import ConnectionError as RedisConnectionError


class QoS(redis.QoS):
    """What was handed out and is not acknowledged."""

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge; a message that came with a connection that is lost is handed out again in any case.

        Raises
        ------
        RedisConnectionError
            If that connection is lost: Celery logs that, where it would log a traceback of anything else.
        """
        connection = self.channel.connection
        if connection is None or connection.client is None:
            raise RedisConnectionError("the connection that this message came with is lost")
        super().ack(delivery_tag)  # type: ignore[no-untyped-call]  # kombu ships no annotations


class Channel(redis.Channel):
    """A channel that can be closed whatever has become of its connection."""

    QoS = QoS

    def close(self) -> None:
        """Close; what is not acknowledged goes back on its queue if the broker takes it now, else by its time-out."""
        try:
            super().close()  # type: ignore[no-untyped-call]
        except self.connection_errors:
            # Nothing is read any more now, so this goes to the end.
            super().close()  # type: ignore[no-untyped-call]


def install() -> None:
    """Have every connection of this process use such channels.

    Celery has a setting for the transport, but the addresses of Unix sockets override it.
    """
    redis.Transport.Channel = Channel
