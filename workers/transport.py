"""How a worker and Flower take messages and results from Redis: each is judged before kombu and Celery act on it.

kombu trusts what it reads from Redis, and Celery trusts kombu: an exception in either ends the worker, and the
message goes to the next one. :class:`Channel` is the place that all messages pass: those of tasks, of remote control,
the answers to it, and events. What :mod:`pacs_tasks.messages.envelope` refuses becomes a dead letter, or, where nobody
waits for it, is dropped with a line in the log.

In kombu 5.7.0, a channel that waits for messages cannot be closed once its connection has died: ``close`` reads from
the dead connection and fails half-way. A later second ``close`` puts unacknowledged messages back without knowing the
broker's address, and raises ``AttributeError``, which ends the worker ("Unrecoverable error"). So a restart of Redis
would end each worker that has a task and an idle process.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection, Mapping
from datetime import UTC, datetime
from queue import Empty
from typing import Any, ClassVar

from celery.backends.redis import RedisBackend
from celery.states import PENDING
from celery.utils.time import maybe_iso8601
from kombu.clocks import LamportClock
from kombu.transport import redis
from kombu.transport.virtual import Message as VirtualMessage
from kombu.utils.json import dumps
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError

from pacs_tasks.connection import explain, place_of
from pacs_tasks.errors import MessageError
from pacs_tasks.ledger.claims import let_others
from pacs_tasks.ledger.keys import CALLERS, JOBS, RUNNING, SILENT_SINCE, WORKERS
from pacs_tasks.messages import envelope
from pacs_tasks.messages.dead_letters import LETTERS, DeadLetter, DeadLetters
from pacs_tasks.messages.envelope import Envelope, Tasks
from pacs_tasks.messages.signature import check_signature
from pacs_tasks.operations import MESSAGE_PRIORITIES, QUEUE_KEYS, QUEUES, UNACKED, queue_key
from pacs_tasks.settings import settings

logger = logging.getLogger(__name__)

#: Seconds for which deliveries of a message are counted.
_REMEMBER = 86_400
#: Seconds until the latest time for which a message may wait; what counts as long; and how many messages with a long
#: wait one worker keeps. What pacs-tasks sends waits for minutes at most.
_LONGEST_WAIT = 86_400
_LONG_WAIT = 900
_MOST_WAITING = 1_000
#: Seconds between two lines about refused messages of one kind: a stranger may send thousands.
_PACE = 1.0
#: By how much one message sets a clock forward at most.
_CLOCK_STEP = 1 << 31
#: Of so many messages, one may be taken before others of a higher priority.
_TURN = 5
#: Seconds for which a job counts as the only one that runs.
_ALONE = 0.1
#: The type that Redis must have at each key that all jobs share.
_TYPES: Mapping[str, str] = {
    UNACKED: "hash",
    "pacs_tasks.unacked_index": "zset",
    "pacs_tasks.unacked_mutex": "string",
    JOBS: "zset",
    RUNNING: "zset",
    WORKERS: "hash",
    SILENT_SINCE: "string",
    CALLERS: "hash",
    LETTERS: "list",
    "pacs_tasks:metrics": "hash",
    "pacs_tasks:metrics:open": "set",
    **dict.fromkeys(QUEUE_KEYS, "list"),
    **{f"_kombu.binding.{name}": "set" for name in (*QUEUES, "celery.pidbox", "celeryev", "reply.celery.pidbox")},
}

#: What Celery and kombu log whole messages by, or values of them; and where.
_WITH_BODIES = (
    "Received and deleted unknown message",
    "Received unregistered task",
    "Received invalid task message",
    "Can't decode message body",
    "Couldn't convert ETA",
    "Cannot process event on channel",
    "Could not restore message",
    "pidbox received method",
    "pidbox command error",
    "Control command error",
    "No such control command",
)
_LOGGERS = ("celery.worker.consumer.consumer", "celery.worker.strategy", "celery.worker.pidbox", "kombu.pidbox",
            "kombu.transport.redis", "kombu.transport.virtual.base")  # fmt: skip


class Backend(RedisBackend):  # type: ignore[misc]  # Celery ships no annotations
    """Takes a value that is no result for none.

    Before it stores a result, Celery reads the one of the same id, and tries again for two minutes if it cannot: a
    stranger could hold up each child of a worker by values that nobody can decode.
    """

    def get(self, key: Any) -> Any:
        try:
            return super().get(key)
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
            return None

    def decode_result(self, payload: Any) -> Any:
        try:
            return super().decode_result(payload)
        except Exception:  # noqa: BLE001 - whatever a stranger wrote
            return {"status": PENDING, "result": None}


class Message(VirtualMessage):
    """A message whose body was decoded when it was judged."""

    def __init__(self, payload: Any, channel: Any = None, **options: Any) -> None:
        super().__init__(payload, channel=channel, **options)
        if isinstance(payload, Envelope):
            self._decoded_cache = payload.content


class QoS(redis.QoS):
    """The messages that were delivered and are not acknowledged."""

    @property
    def held(self) -> Collection[str]:
        """The delivery tags of these messages."""
        return self._delivered

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message; one that came over a lost connection is delivered again in any case.

        Raises
        ------
        RedisConnectionError
            If that connection is lost. Celery logs this error as one line, and any other with a traceback.
        """
        connection = self.channel.connection
        if connection is None or connection.client is None:
            raise RedisConnectionError("The connection over which this message came is lost.")
        super().ack(delivery_tag)

    def restore_by_tag(self, tag: str, client: Any = None, leftmost: bool = False) -> None:
        """Put a message back into its queue; one that cannot be read any more becomes a dead letter."""
        try:
            super().restore_by_tag(tag, client, leftmost)
        except RedisError:
            raise
        except Exception:  # noqa: BLE001 - whatever stands there must not hold up the messages behind it
            with self.channel.conn_or_acquire(client) as connection:
                raw = connection.hget(self.unacked_key, tag) or b""
                error = MessageError(
                    "A message that a worker had taken was changed in Redis. Look for what else writes there."
                )
                self.channel.refuse(raw, self.unacked_key, error)
                self._remove_from_indices(tag).execute()


class Channel(redis.Channel):
    """A channel that judges what it takes, and that can be closed even if its connection is lost.

    Raises
    ------
    RedisConnectionError
        If the Redis accepts no data. Celery pauses ever longer between attempts to connect, but begins anew at once,
        with a traceback each second, if the first write fails over a connection that it has.
    """

    QoS = QoS
    Message = Message
    #: The tasks of this process; none where it only watches.
    tasks: ClassVar[Tasks] = {}
    #: The commands of remote control that it obeys.
    commands: ClassVar[Collection[str]] = ()
    #: Called with each dead letter, and whether its message was delivered too often.
    on_dead_letter: ClassVar[Callable[[DeadLetter, bool], None] | None] = None
    _logged: ClassVar[dict[str, float]] = {}
    #: Messages taken, and until when one job counts as the only one that runs.
    _taken, _alone_until = 0, 0.0
    #: The client that publishes.
    _publisher: Any = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        try:
            self.client.set("pacs_tasks.writable", 1, px=1)
            set_aside_wrong_types(self.client)
        except ResponseError as error:
            place = place_of(self.connection.client.as_uri())
            self.close()
            raise RedisConnectionError(str(explain(error, place) or error).rstrip(".")) from None

    def close(self) -> None:
        """Close; unacknowledged messages return to their queue now, or by the visibility timeout if that fails."""
        try:
            super().close()
        except self.connection_errors:
            # The channel no longer reads, so this call reaches its end.
            super().close()

    def _create_client(self, asynchronous: bool = False) -> Any:
        """Give a client; all that wait for no message share one.

        kombu makes one for each message and event. redis-py builds a table of 300 commands for each, which was a fifth
        of the work of a worker's main process.
        """
        if asynchronous:
            return super()._create_client(asynchronous)
        if self._publisher is None or self._publisher.connection_pool is not self.pool:
            # A fork has another pool.
            self._publisher = super()._create_client()
        return self._publisher

    def _brpop_start(self, timeout: float | None = None) -> None:
        """Wait for the next message, as kombu's method does.

        Each priority comes first at one message of twenty at least, or the lower ones would starve.
        """
        turn, others = divmod(self._taken, _TURN)
        first = MESSAGE_PRIORITIES[0 if others else turn % len(MESSAGE_PRIORITIES)]
        order = sorted(MESSAGE_PRIORITIES, key=lambda each: (each != first, each))
        queues = self._queue_cycle.consume(len(self.active_queues))
        if queues:
            keys = [queue_key(queue, priority) for priority in order for queue in queues]
            self._in_poll = self.client.connection
            self._brpop_sent_at = time.monotonic()  # type: ignore[assignment]  # kombu declares None
            self.client.connection.send_command("BRPOP", *keys, timeout or self.brpop_timeout)

    def _brpop_read(self, **options: Any) -> bool:
        """Take a message of a queue, as kombu's method does."""
        try:
            try:
                reply = self.client.parse_response(self.client.connection, "BRPOP", **options)
            except self.connection_errors:
                self.client.connection.disconnect()
                raise
            if not reply:
                raise Empty
            self._taken += 1
            queue = reply[0].decode(errors="replace").rsplit(self.sep, 1)[0]
            self._queue_cycle.rotate(queue)
            message = self._judged(reply[1], queue)
            if message is not None and not self._waits_here(message):
                self._deliver(message, queue, reply)
                self._let_others(reply[0], message)
            return True
        finally:
            self._in_poll = None  # type: ignore[assignment]
            self._flush_brpop_reauth()

    def _deliver(self, message: Envelope, queue: str, reply: tuple[bytes, bytes]) -> None:
        try:
            self.connection._deliver(message, queue)
        except ResponseError:
            # It could not be recorded as taken, for example because that key holds another type.
            with self.conn_or_acquire() as client:
                client.rpush(*reply)
            raise

    def _waits_here(self, message: Envelope) -> bool:
        """Whether this worker has a message already and waits for its time.

        kombu delivers a message again after the visibility timeout, and Celery would keep each delivery.
        """
        tag = message["properties"]["delivery_tag"]
        if tag not in self.qos.held or not _wait_of(message):
            return False
        self.qos.append(self.Message(message, channel=self), tag)
        return True

    def _let_others(self, key: bytes, message: Envelope) -> None:
        """Let other jobs go before what follows of the same job in a list."""
        root = message["headers"].get("root_id")
        if root is None or time.monotonic() < self._alone_until:
            return
        try:
            with self.conn_or_acquire() as client:
                shared = let_others(client, key.decode(), root)
        except RedisError as error:
            logger.debug("messages were not moved (%s)", type(error).__name__)
        else:
            self._alone_until = 0.0 if shared else time.monotonic() + _ALONE

    def _judged(self, raw: bytes, queue: str) -> Envelope | None:
        """The message; None if it was refused."""
        size = settings().message_size
        if queue.endswith(".pidbox"):
            return _passed(raw, queue, size, envelope.check_reply)
        message = None
        try:
            message = envelope.read_outside(raw, size)
            envelope.read_body(message, size)
            envelope.check_task(message, self.tasks)
            check_signature(message, settings())
            self._check_wait(message)
        except MessageError as error:
            self.refuse(raw, queue, error, message)
            return None
        if message["headers"].get("redelivered") and self._delivered_too_often(message):
            self.refuse(raw, queue, _too_often(settings().max_deliveries), message, too_often=True)
            return None
        envelope.drop_time_limits(message)
        # What Celery logs, and sends to Flower, of a task of whatever publisher.
        shown, job = envelope.shown(message)
        message["headers"] |= {"argsrepr": shown, "kwargsrepr": job, "shadow": None}
        message["queue"] = queue
        return message

    def _check_wait(self, message: Envelope) -> None:
        """Raise :class:`MessageError` if a message is due too late: workers keep it in memory until then."""
        wait = _wait_of(message)
        if wait > _LONGEST_WAIT:
            raise MessageError("The message is due in more than 24 hours. Enqueue the task on the day.")
        if wait > _LONG_WAIT and len(self.qos.held) >= _MOST_WAITING:
            raise MessageError(
                "The worker keeps many messages already, and this one is not due soon. Enqueue the task later."
            )

    def _delivered_too_often(self, message: Envelope) -> bool:
        """Count a delivery after the first; one that waits for its time goes from worker to worker until then."""
        if _wait_of(message):
            return False
        key = f"pacs_tasks:deliveries:{message['properties']['delivery_tag']}"
        try:
            # Over a connection that does not wait for messages.
            with self.conn_or_acquire() as client, client.pipeline() as pipe:
                pipe.incr(key)
                pipe.expire(key, _REMEMBER)
                return bool(pipe.execute()[0] >= settings().max_deliveries)
        except ResponseError:
            # A Redis that is full delivers again and again, which is not the message's fault.
            return False

    def refuse(
        self, raw: bytes, queue: str, error: MessageError, message: Envelope | None = None, *, too_often: bool = False
    ) -> None:
        """Keep a message as a dead letter, and end what waits for it."""
        task, job_id = ("", "") if message is None else envelope.about(message)
        # Any other name may be anything.
        task = task if task in self.tasks else ""
        try:
            with self.conn_or_acquire() as client:
                letter = DeadLetters(client, settings().keep_jobs).add(raw, queue, error.message, task, job_id)
        except ResponseError as failure:
            logger.error("a message was refused (%s) and could not be kept (%s)", error.message, failure)
            return
        _log(f"dead letter {letter.id} of {queue}: {error.message} Run `pacs-tasks dead-letters` to see it.")
        if (hook := type(self).on_dead_letter) is not None:
            hook(letter, too_often)

    def _do_restore_message(
        self,
        payload: Any,
        exchange: str,
        routing_key: str,
        pipe: Any,
        leftmost: bool = False,
    ) -> None:
        """Put a message back where it came from, whatever it says of its route."""
        if not all(isinstance(each, dict) for each in (payload, payload["headers"], payload["properties"])):
            raise TypeError("not a message")
        queue = payload.pop("queue", None)
        if queue is None or queue not in {*QUEUES, *self._active_queues}:
            super()._do_restore_message(payload, exchange, routing_key, pipe, leftmost)
            return
        payload["headers"]["redelivered"] = True
        key = self._q_for_pri(queue, self._get_message_priority(payload, reverse=False))
        (pipe.lpush if leftmost else pipe.rpush)(key, dumps(payload))

    def _handle_message(self, client: Any, response: Any) -> dict[str, Any]:
        """Empty what comes by publish and subscribe unless it is a command or an event."""
        payload: dict[str, Any] = super()._handle_message(client, response)
        if payload["type"].endswith(b"message") and payload["data"]:
            channel = payload["channel"].decode(errors="replace")
            check = envelope.check_events if ".celeryev" in channel else self._check_command
            if _passed(payload["data"], channel, settings().message_size, check) is None:
                payload["data"] = None
        return payload

    def _check_command(self, message: Envelope) -> None:
        envelope.check_command(message, self.commands)


def _wait_of(message: Envelope) -> float:
    """Seconds until a message is due; zero if it is."""
    # Protocol 1 has the time in the body.
    content = message.content if isinstance(message.content, dict) else {}
    eta = message["headers"].get("eta") or content.get("eta")
    moment: datetime | None = maybe_iso8601(eta) if eta else None
    if moment is None:
        return 0.0
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def set_aside_wrong_types(client: Any) -> None:
    """Rename keys that hold what workers cannot use: they would fail at each of them for ever."""
    with client.pipeline() as pipe:
        for key in _TYPES:
            pipe.type(key)
        types = pipe.execute()
    for (key, expected), found in zip(_TYPES.items(), types, strict=True):
        name = found.decode() if isinstance(found, bytes) else found
        if name not in {expected, "none"}:
            aside = f"pacs_tasks:dead_key:{key}:{time.time():.0f}"
            client.rename(key, aside)
            client.expire(aside, settings().keep_jobs)
            logger.error("the key %s of Redis held another type; it is now %s", key, aside)


def _too_often(deliveries: int) -> MessageError:
    return MessageError(
        f"Workers received this message {deliveries} times and did not finish it. Read their logs, and look at the "
        "memory of their machines."
    )


def _passed(raw: bytes, place: str, size: int, check: Callable[[Envelope], None]) -> Envelope | None:
    """The message if it passes; else a line in the log. Nobody waits for it, and its sender may send the next."""
    try:
        found = envelope.read_envelope(raw, size)
        check(found)
    except MessageError as error:
        _log(f"a message of {place.rpartition('.')[2][:32]!r} was dropped: {error.message}")
        return None
    return found


def _log(line: str) -> None:
    """Log a line unless one of its kind was logged just now."""
    kind, now = line.rpartition(": ")[2], time.monotonic()
    if now - Channel._logged.get(kind, -_PACE) >= _PACE:
        Channel._logged[kind] = now
        logger.warning("%s", line)


def _without_body(record: logging.LogRecord) -> bool:
    """Keep of a line about a message only what happened."""
    for each in _WITH_BODIES:
        if str(record.msg).startswith(each):
            record.msg, record.args = f"{each} (its content is private)", ()
            record.exc_info = record.exc_text = None
    return True


def hide_bodies() -> None:
    """Let no line of Celery or kombu show a message: the second net, as such messages are refused here before."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_without_body)


def _adjust(self: LamportClock, other: int) -> int:
    """Set a clock forward by a message, as kombu's method does, but not far.

    A clock is in each answer and event, and one that is not a number with 63 bits is refused. So one message of a
    stranger would make this process mute until it is started again.
    """
    with self.mutex:
        # Within the body of an answer it may be anything.
        self.value = max(self.value, min(int(other or 0), self.value + _CLOCK_STEP)) + 1
        return self.value


LamportClock.adjust = _adjust  # type: ignore[method-assign]
# The addresses of Unix sockets override Celery's setting for the transport.
redis.Transport.Channel = Channel
