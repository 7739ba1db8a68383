"""Attack commands in many rounds: `python -m benchmarks.faults --rounds 100 --save`.

In each round one thing happens to a training of two processes, or (every tenth round) to the whole pipeline: any signal
to any of its processes at any moment, one or all peers frozen, files that cannot grow, a full or read-only file system
(which needs the right to mount), a clock that jumps, or a slow disk. The command must end in time and leave no process
behind. Then the same command runs without disturbance and must succeed with the weights of an undisturbed run: bit for
bit on the same mesh, with dropout, and within 1e-4 if it resumes on another mesh (every fourth round of a training).
Everything that is wrong is printed and counted.

The seed makes the choice of attacks repeatable, but not the moments at which they strike. As soon as a round is over,
it is written as a line of `faults.rounds.jsonl`, in the same folder as the table that `--save` keeps.
"""

import json
import random
import shutil
import tempfile
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.faults import attacks
from benchmarks.faults.jobs import Job, Result, difference, pipeline, start, training
from benchmarks.results import RESULTS, finish, parser_of, row
from keras_spatial.backup import read_position

# The relative frequency of each attack.
ATTACKS: dict[attacks.Attack, int] = {
    attacks.any_signal: 12,
    attacks.frozen_peers: 2,
    attacks.limited_files: 1,
    attacks.full_disk: 1,
    attacks.read_only_disk: 1,
    attacks.clock_jumps: 1,
    attacks.slow_disk: 2,
}
TOLERANCE = 1e-4
OTHER_MESH = ("--mesh", "rows:2, columns:2", "--layout", "x:columns, y:rows")


@dataclass(frozen=True)
class Report:
    """The record of one round."""

    number: int
    job: str
    attack: str
    what: str
    seconds: float
    mesh: str
    difference: float
    wrong: str


def undisturbed(job: Job, folder: Path) -> tuple[Result, float]:
    """The result of a command, and the seconds that it takes.

    Raises:
        SystemExit: if the command fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    running = start(job, folder, uuid.uuid4().hex)
    status = running.wait(900)
    seconds = time.monotonic() - running.started
    running.end()
    if status:
        lines = running.log.read_text(encoding="utf-8", errors="replace").splitlines()
        raise SystemExit(f"{job.name} without any disturbance ended with status {status}:\n" + "\n".join(lines[-30:]))
    return job.result(folder), seconds


def attacked(round_: attacks.Round, attack: attacks.Attack, again: Job, expected: Result, number: int) -> Report:
    """Run one round: the attack, and then the same command again."""
    outcome = attack(round_)
    wrong, found = outcome.wrong, float("inf")
    backup = round_.folder / "backup" / "backup.npz"
    if not wrong and not attacks.is_free(round_):
        wrong = "the folder is still locked"
    if not wrong and backup.exists() and read_position(backup, set_aside=False) is None:
        wrong = "the backup cannot be read"
    if not wrong:
        try:
            found = difference(undisturbed(again, round_.folder)[0], expected)
        except SystemExit as failure:
            wrong = str(failure)
    other = again is not round_.job
    if not wrong and found > (TOLERANCE if other else 0):
        wrong = f"the result differs by {found}"
    return Report(
        number,
        round_.job.name,
        attack.__name__,
        outcome.what,
        round(outcome.seconds, 1),
        "another" if other else "the same",
        found,
        wrong,
    )


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="The number of rounds.")
    parser.add_argument(
        "--minutes",
        type=float,
        default=0.0,
        help="No further round begins after this many minutes; 0 means no limit.",
    )
    parser.add_argument("--seed", type=int, default=0, help="The seed of the choice of attacks.")
    parser.add_argument(
        "--pipelines",
        type=int,
        default=10,
        help="Every round whose number is a multiple of this one attacks the pipeline; 0 means none.",
    )
    arguments = parser.parse_args()
    started = time.monotonic()
    reports: list[Report] = []
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        folder = Path(name)
        rounds_file = (RESULTS if arguments.save else folder) / "faults.rounds.jsonl"
        rounds_file.unlink(missing_ok=True)
        expected: dict[tuple[str, bool], tuple[Result, float]] = {}
        for number in range(1, arguments.rounds + 1):
            if arguments.minutes and time.monotonic() - started > 60 * arguments.minutes:
                break
            generator = random.Random(f"{arguments.seed} {number}")
            whole_chain = bool(arguments.pipelines) and number % arguments.pipelines == 0
            other = not whole_chain and number % 4 == 3
            # Dropout draws different numbers on another mesh.
            dropout = ("--dropout", "0.0" if other else "0.3")
            job = pipeline() if whole_chain else training(*dropout)
            again = training(*dropout, *OTHER_MESH, processes=1) if other else job
            if (job.name, other) not in expected:
                expected[job.name, other] = undisturbed(job, folder / f"{job.name}-{other}")
            result, seconds = expected[job.name, other]
            chosen = generator.choices(list(ATTACKS), list(ATTACKS.values()))[0]
            own = folder / str(number)
            own.mkdir()
            place = attacks.Round(job, own, uuid.uuid4().hex, seconds, generator)
            report = attacked(place, chosen, again, result, number)
            reports.append(report)
            print(f"{number}/{arguments.rounds} {report}", flush=True)
            with rounds_file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(report)) + "\n")
            shutil.rmtree(own, ignore_errors=True)
    rows = rows_of(reports, {name: seconds for (name, _), (_, seconds) in expected.items()})
    command = f"python -m benchmarks.faults --rounds {arguments.rounds}"
    finish("faults", rows, vars(arguments), command, save=arguments.save)
    raise SystemExit(1 if any(report.wrong for report in reports) else 0)


def rows_of(reports: list[Report], whole: dict[str, float]) -> list[dict]:
    """The table of a study.

    Args:
        reports: the records of the rounds.
        whole: for each job, the seconds of an undisturbed run.
    """
    good = [report for report in reports if not report.wrong]
    count = len(reports)
    rows = [
        row(
            f"of {count} disturbed runs, those that left nothing behind and then ended with the same weights",
            len(good),
            None,
            count,
            smallest=True,
        )
    ]
    for attack in ATTACKS:
        mine = [report for report in reports if report.attack == attack.__name__]
        if mine:
            ok = sum(not report.wrong for report in mine)
            rows.append(
                row(f"of {len(mine)} with {attack.__name__.replace('_', ' ')}", ok, None, len(mine), smallest=True)
            )
    frozen = [r.seconds for r in reports if r.attack == "frozen_peers" and r.job == "training"]
    if frozen:
        figure = "seconds until a training with frozen processes has ended, longest"
        rows.append(row(figure, max(frozen), None, attacks.FROZEN_LIMIT_SECONDS))
    struck = [r.seconds for r in reports if r.attack == "any_signal" and r.job == "training"]
    if struck and "training" in whole:
        rows.append(row("seconds from a signal to the end, longest, over a whole run", max(struck), whole["training"]))
    others = [r.difference for r in good if r.mesh == "another"]
    figure = "largest difference of a weight after a restart on another mesh"
    rows.append(row(figure, max(others, default=0.0), None, TOLERANCE))
    return rows


if __name__ == "__main__":
    main()
