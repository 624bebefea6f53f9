"""Files: run directories, studies, checkpoints. Imports no JAX, but for checkpoints."""

from lipsjax.recording.behaviour import (
    BEHAVIOUR,
    behaviour_of,
    describe_behaviour,
    migrate_config,
)
from lipsjax.recording.files import (
    RecordingError,
    append,
    lock,
    whole_file,
    write_atomically,
    write_json,
)
from lipsjax.recording.runs import (
    PLAN,
    Recording,
    check,
    create,
    diverge,
    diverged,
    finish,
    is_finished,
    notes_of_others,
    read,
    read_plan,
    read_table,
    run_hash,
    truncate,
)
from lipsjax.recording.studies import (
    StudyRecording,
    Trial,
    read_study,
    replaceable,
)

__all__ = [
    "BEHAVIOUR",
    "PLAN",
    "Recording",
    "RecordingError",
    "StudyRecording",
    "Trial",
    "append",
    "behaviour_of",
    "check",
    "create",
    "describe_behaviour",
    "diverge",
    "diverged",
    "finish",
    "is_finished",
    "lock",
    "migrate_config",
    "notes_of_others",
    "read",
    "read_plan",
    "read_study",
    "read_table",
    "replaceable",
    "run_hash",
    "truncate",
    "whole_file",
    "write_atomically",
    "write_json",
]
