"""A remote in the settings of a process, with what no request may contain."""

# Without `from __future__ import annotations`: pydantic would compile each annotation again from its text.

from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from pacs_tasks.ae import RemoteAE, UserIdentity
from pacs_tasks.settings.pace import Hours, Pace, check_hours, check_time_zone, parse_size, parse_window


def _several(value: object) -> object:
    """Read a single text as a list of one."""
    return [value] if isinstance(value, str) else value


BulkHours = Annotated[tuple[str, ...], BeforeValidator(_several), AfterValidator(check_hours)]
TimeZone = Annotated[str, AfterValidator(check_time_zone)]
#: One in 100 seconds at least: a job that waits for hours between two instances looks as if it stood still.
InstancesPerSecond = Annotated[float, Field(ge=0.01, le=100_000)]
BytesPerSecond = Annotated[float, BeforeValidator(parse_size), Field(ge=1000)]


class NamedRemote(RemoteAE):
    """A remote in the settings of a process.

    Attributes
    ----------
    identity
        On whose behalf associations are requested.
    bulk_hours
        The hours in which jobs of priority ``bulk`` run: ``22:00-06:00``, or ``sat,sun 00:00-24:00``. None: always.
    time_zone
        The time zone of these hours, such as ``Europe/Berlin``. None: that of the worker's machine.
    instances_per_second, bytes_per_second
        What the whole fleet may send to it, or have it deliver. None: not limited.
    """

    identity: UserIdentity | None = None
    bulk_hours: BulkHours | None = None
    time_zone: TimeZone | None = None
    instances_per_second: InstancesPerSecond | None = None
    bytes_per_second: BytesPerSecond | None = None

    def public(self) -> RemoteAE:
        """Give what requests may contain."""
        return RemoteAE.model_construct(**{name: getattr(self, name) for name in RemoteAE.model_fields})

    @property
    def pace(self) -> Pace:
        """Its pace."""
        hours = tuple(map(parse_window, self.bulk_hours or ()))
        return Pace(self.instances_per_second, self.bytes_per_second, Hours(hours, self.time_zone) if hours else None)
