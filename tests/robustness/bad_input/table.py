"""The whole table, and what is not in it."""

from __future__ import annotations

from bad_input import commands, configurations, data, python_calls, rows, runs, statuses
from bad_input.cases import Case

CASES: list[Case] = [
    case for letter in (configurations, commands, data, rows, runs, python_calls, statuses) for case in letter.CASES
]

# What one would expect in the table, and why it is not there.
LEFT_OUT = {
    "C19 drop_last": "there is none: rows that fill no batch are left to other epochs, and fewer rows are one batch",
    "C24 empty file": "above the default preset, it is the default experiment; alone, it lacks all that is listed",
    "C30 JSON": "one language of configurations is enough: a .json file is refused as a .yaml file is",
    "C32 run beside the data": "data are one file; a run directory in the folder of that file does no harm",
    "C34 ../../x and a/b": "--out is a path, and such paths are right",
    "L3 1_0": "a field is read as TOML, in which 1_0 is 10; for options of a command it is refused",
    "L6 --set": "there is no --set: each field is an option",
    "D23 10**8 rows": "it takes minutes; tests/plugins/datasets/test_arrays.py reads a million rows in bounded time",
    "D27 endless": "data sets are splits in memory, which end",
    "F3 exit status of the offer": "the older checkpoint is not offered but taken, with a warning",
    "F12 NFS": "there is no second host; a lock is of the system, so that none is stale on this one",
    "A2 t outside of [0, 1]": "every call that takes t is in each step, and reading t would wait for the device; the "
    "calls around them (loss, nll, sample, log_density) draw t themselves",
    "A3 two devices": "there may be one device only, and draws take no generator; torch names both devices",
    "A5 backward in inference mode": "torch says that the loss has no gradient, and nothing of ours lies between",
}
