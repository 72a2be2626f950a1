"""Damaged and hostile files, made at random from sound ones, and what the commands that read them answer.

``python -m tests.robustness.fuzz --minutes 5 --seed 0`` (``make fuzz``) runs case after case, each in a folder of its
own, in a child with limits of memory and time.  A case is a function of the seed and its number alone, so that
``--seed 0 --case 17`` repeats one.  Promised is that

* no command ends with status 70, an unknown status or a signal, and none hangs;
* the memory of the process grows by at most :data:`~tests.robustness.fuzz.cases.MEMORY` during a command;
* no control byte is printed;
* no file outside the folder of the case changes.
"""
