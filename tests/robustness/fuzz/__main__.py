"""``python -m tests.robustness.fuzz``: cases until the time is over; status 1 if one broke a promise."""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .cases import SECONDS, Answer, Case, faults_of, state_of, write_case

ROOT = Path(__file__).parents[3]
READY = 300  # seconds in which a child must have imported everything


class Child:
    """A process that runs commands, and is replaced after it was killed."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self.process: subprocess.Popen[str] | None = None

    def answer(self, folder: Path, command: list[str]) -> Answer:
        """The answer to a command."""
        if self.process is None:
            self.start()
        process = self.process
        assert process is not None
        assert process.stdin is not None
        start = time.monotonic()
        process.stdin.write(json.dumps([str(folder), command]) + "\n")
        process.stdin.flush()
        line = self._line(SECONDS)
        if not line:
            process.kill()
            process.wait()
            self.process = None
            return Answer(None, seconds=time.monotonic() - start)
        return Answer(**json.loads(line))

    def start(self) -> None:
        """Starts the process, which makes the corpus if it is not there.

        Raises:
            RuntimeError: If a command fails on sound files.
        """
        home = self.work / "outside"
        environment = {**os.environ, "HOME": str(home), "OMP_NUM_THREADS": "1", "TMPDIR": str(self.work / "tmp")}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        command = [sys.executable, "-W", "ignore", "-m", "tests.robustness.fuzz.child", str(self.work / "corpus")]
        with (self.work / "child.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        if self._line(READY).strip() != "ready":
            raise RuntimeError(f"the child does not start: {(self.work / 'child.log').read_text()[-2000:]}")

    def _line(self, seconds: float) -> str:
        assert self.process is not None
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        return self.process.stdout.readline() if ready else ""

    def close(self) -> None:
        """Ends the process."""
        if self.process is not None:
            assert self.process.stdin is not None
            self.process.stdin.close()
            self.process.wait(timeout=30)


@contextmanager
def workplace() -> Iterator[Path]:
    """A folder for corpus and cases, with files outside of the cases that must not change."""
    with tempfile.TemporaryDirectory(prefix="bfn-fuzz-") as name:
        work = Path(name)
        for folder in ("corpus", "outside", "tmp", "cases"):
            (work / folder).mkdir()
        (work / "outside" / "file").write_text("not yours")
        yield work


def main() -> int:
    """Runs cases, prints their counts, and keeps what broke a promise."""
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=5.0, help="time for the cases")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--case", type=int, help="run this case alone, and print what it prints")
    parser.add_argument("--kinds", default="", help="pattern of the kinds of files")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="folder for what broke a promise")
    given = parser.parse_args()
    counts: Counter[tuple[str, str]] = Counter()
    failures: list[str] = []
    numbers = iter(range(10**9)) if given.case is None else iter([given.case])
    with workplace() as work:
        child = Child(work)
        child.start()
        end = time.monotonic() + 60.0 * given.minutes
        print(f"seed {given.seed}, {given.minutes:g} minutes", flush=True)
        for number in numbers:
            if time.monotonic() > end:
                break
            folder = work / "cases" / "one"
            case = write_case(work / "corpus", folder, given.seed, number, given.kinds)
            before = [state_of(work / "corpus"), state_of(work / "outside")]
            answer = child.answer(folder, case.command)
            faults = faults_of(answer, before, [state_of(work / "corpus"), state_of(work / "outside")])
            counts[case.kind, str(answer.status)] += 1
            if faults:
                failures.append(_told(case, answer, faults, given, folder))
                print(failures[-1], flush=True)
            if given.case is not None:
                print(
                    f"bfn {' '.join(case.command)}: status {answer.status}, {answer.megabytes:.0f} MB", answer.printed
                )
            shutil.rmtree(folder)
        child.close()
    _print(counts, len(failures), given.seed)
    return int(bool(failures))


def _told(case: Case, answer: Answer, faults: list[str], given: argparse.Namespace, folder: Path) -> str:
    """What happened in words, after the folder and the output were kept."""
    kept = given.keep / f"{given.seed}-{case.number}"
    shutil.rmtree(kept, ignore_errors=True)
    shutil.copytree(folder, kept / "folder", symlinks=True)
    again = f"python -m tests.robustness.fuzz --seed {given.seed} --case {case.number}"
    again += f" --kinds '{given.kinds}'" if given.kinds else ""
    (kept / "told.txt").write_text(f"{again}\nbfn {' '.join(case.command)}\n{'; '.join(faults)}\n\n{answer.printed}")
    return f"{case.kind}: {'; '.join(faults)}: bfn {' '.join(case.command)}\n    {again}"


def _print(counts: Counter[tuple[str, str]], failed: int, seed: int) -> None:
    statuses = sorted({status for _, status in counts})
    width = max(len(kind) for kind, _ in counts)
    print(f"\n{'status':<{width}}", *(f"{status:>6}" for status in statuses))
    for kind in dict.fromkeys(kind for kind, _ in counts):
        print(f"{kind:<{width}}", *(f"{counts[kind, status] or '':>6}" for status in statuses))
    print(f"seed {seed}: {sum(counts.values())} cases, {failed} broke a promise")


if __name__ == "__main__":
    sys.exit(main())
