"""The attributes of a scheduled procedure step in a worklist (PS3.4 table K.6-1)."""

from __future__ import annotations

#: Its one item holds the keys below.
STEP_SEQUENCE = "ScheduledProcedureStepSequence"

STEP_KEYS = frozenset(
    {
        "Modality",
        "RequestedContrastAgent",
        "ScheduledStationAETitle",
        "ScheduledProcedureStepStartDate",
        "ScheduledProcedureStepStartTime",
        "ScheduledProcedureStepEndDate",
        "ScheduledProcedureStepEndTime",
        "ScheduledPerformingPhysicianName",
        "ScheduledPerformingPhysicianIdentificationSequence",
        "ScheduledProcedureStepDescription",
        "ScheduledProtocolCodeSequence",
        "ScheduledProcedureStepID",
        "ScheduledStationName",
        "ScheduledProcedureStepLocation",
        "PreMedication",
        "ScheduledProcedureStepStatus",
        "CommentsOnTheScheduledProcedureStep",
    }
)


def place_of(keyword: str) -> str:
    """Return the path of an attribute in a worklist: a keyword, or two joined by a dot."""
    return f"{STEP_SEQUENCE}.{keyword}" if keyword in STEP_KEYS else keyword
