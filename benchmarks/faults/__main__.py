"""Attack commands in many rounds: `python -m benchmarks.faults --rounds 100 --save`.

First every signal is sent once to every process of a light job of the launcher, and no process may be left behind.

Then, in each round, one attack is made on a command: any signal to any of its processes at any moment, one or all peers
frozen, files that cannot grow, a disk that becomes full or read-only, a clock that jumps, or a slow disk. The command
is a training of two processes, the segmentation of several volumes, the building of a data set, or the whole pipeline.
It must end in time, leave no process and no lock behind, and leave only complete files.

Rounds come in series: the same command runs again in the same folder, under the next attack. At the end of a series it
runs without disturbance and must succeed with the result of an undisturbed run: bit for bit on the same mesh, with
dropout, and within 1e-4 if a training resumes on another mesh (every fourth series of trainings). A command that
succeeds in spite of an attack must have that result at once. Everything that is wrong is printed and counted.

The seed makes the choice of attacks repeatable, but not the moments at which they strike. Disks are mounted in a
separate namespace, which needs no privileges. As soon as a series is over, its rounds are written as lines of
`faults.rounds.jsonl`, in the same folder as the table that `--save` keeps. What the signals did to the light job is
written as lines of `faults.sweep.jsonl`.
"""

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
import time
import uuid
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from benchmarks.faults import attacks, disks
from benchmarks.faults.jobs import Job, Result, difference, end_marked, pipeline, start, training
from benchmarks.faults.sweep import sweep
from benchmarks.results import RESULTS, finish, parser_of, row

# How often each attack occurs in a deck of attacks.
ATTACKS: dict[attacks.Attack, int] = {
    attacks.any_signal: 12,
    attacks.frozen_peers: 2,
    attacks.limited_files: 1,
    attacks.full_disk: 2,
    attacks.read_only_disk: 2,
    attacks.clock_jumps: 2,
    attacks.slow_disk: 2,
}
# How often each job occurs in a deck of series. Only every fourth "training" is on another mesh.
JOBS = {"training": 12, "segmentation": 7, "building": 5, "pipeline": 1}
SERIES = 4
TOLERANCE = 1e-4
ROUNDS, SWEEP = "faults.rounds.jsonl", "faults.sweep.jsonl"
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
    signals: tuple[str, ...] = ()


@dataclass(frozen=True)
class Series:
    """What the rounds of a series have in common.

    Attributes:
        job: the command under attack.
        again: the command that runs undisturbed at the end.
        expected: the result of an undisturbed run.
        seconds: how long an undisturbed run takes.
        folder: the folder of the series.
    """

    job: Job
    again: Job
    expected: Result
    seconds: float
    folder: Path


def undisturbed(job: Job, folder: Path) -> tuple[Result, float]:
    """The result of a command, and the seconds that it takes.

    Raises:
        SystemExit: if the command fails.
    """
    folder.mkdir(parents=True, exist_ok=True)
    running = start(job, folder, uuid.uuid4().hex)
    status = running.wait(1200)
    seconds = time.monotonic() - running.started
    running.end()
    if status:
        lines = running.log.read_text(encoding="utf-8", errors="replace").splitlines()
        raise SystemExit(f"{job.name} without any disturbance ended with status {status}:\n" + "\n".join(lines[-30:]))
    return job.result(folder), seconds


def attacked(
    round_: attacks.Round, attack: attacks.Attack, expected: Result, number: int
) -> tuple[Report | None, bool]:
    """Run one round.

    Returns:
        Its record, or None if the command had ended before the attack; and whether the command has succeeded.
    """
    try:
        outcome = attack(round_)
    finally:
        # Even if the attack itself failed.
        end_marked(round_.mark)
    wrong, found = outcome.wrong, 0.0
    if not wrong and not attacks.is_free(round_):
        wrong = "the folder is still locked"
    if not wrong:
        wrong = damaged(round_, expected)
    succeeded = not wrong and outcome.status == 0
    if succeeded:
        found, wrong = compared(lambda: round_.job.result(round_.folder), expected, 0)
    name, job = attack.__name__, round_.job.name
    report = Report(
        number, job, name, outcome.what, round(outcome.seconds, 1), "the same", found, wrong, outcome.signals
    )
    return None if outcome.missed and not wrong else report, succeeded


def damaged(round_: attacks.Round, expected: Result) -> str:
    """What the attack has damaged in the backup or in the results that exist; empty if nothing."""
    from keras_spatial.backup import read_position

    backup = round_.folder / "backup" / "backup.npz"
    if backup.exists() and read_position(backup, set_aside=False) is None:
        return "the backup cannot be read"
    try:
        whole = round_.job.whole(round_.folder)
    except Exception as error:
        return f"a result cannot be read: {type(error).__name__}: {error}"
    unlike = [name for name, value in whole.items() if difference({name: value}, {name: expected.get(name, value)})]
    return f"a result is not complete: {', '.join(unlike)}" if unlike else ""


def compared(read, expected: Result, tolerance: float) -> tuple[float, str]:
    """How much a result differs, and what is wrong with it; empty if nothing is."""
    try:
        found = difference(read(), expected)
    except (Exception, SystemExit) as failure:
        return float("inf"), f"{type(failure).__name__}: {failure}"
    return found, "" if found <= tolerance else f"the result differs by {found}"


def rounds_of(series: Series, chosen: list[attacks.Attack], first: int, decks: attacks.Decks, seed: int):
    """Run the rounds of a series and then the command without disturbance, and return the records."""
    reports: list[Report] = []
    place, part, pending = series.folder / "0", 0, []
    place.mkdir(parents=True)
    for attack in chosen:
        number = first + len(reports)
        generator = random.Random(f"{seed} {number}")
        round_ = attacks.Round(series.job, place, uuid.uuid4().hex, series.seconds, generator, decks)
        report, succeeded = attacked(round_, attack, series.expected, number)
        if report is not None:
            reports.append(report)
            print(f"{number} {report}", flush=True)
            pending.append(len(reports) - 1)
        if report is not None and report.wrong:
            print("\n".join((place / "log").read_text(encoding="utf-8", errors="replace").splitlines()[-40:]))
            # Later rounds would show nothing.
            return reports
        if succeeded:
            # Nothing is left to resume from, so the rest of the series starts again.
            part, pending = part + 1, []
            place = series.folder / str(part)
            place.mkdir()
    if pending:
        other = series.again is not series.job
        found, wrong = compared(lambda: undisturbed(series.again, place)[0], series.expected, TOLERANCE if other else 0)
        for index in pending:
            mesh = "another" if other else "the same"
            reports[index] = replace(reports[index], difference=found, mesh=mesh, wrong=wrong)
        print(f"series of rounds {first} to {first + len(reports) - 1}: {wrong or f'differs by {found}'}", flush=True)
    return reports


def usable() -> dict[attacks.Attack, int]:
    """The attacks that this machine allows; the others are named with the reason."""
    left = dict(ATTACKS)
    reason = disks.own_mounts([sys.executable, "-m", "benchmarks.faults", *sys.argv[1:]])
    if reason:
        print(f"No disks that become full or read-only: this user may not mount file systems ({reason}).")
        del left[attacks.full_disk], left[attacks.read_only_disk]
    if attacks.clock_library() is None:
        print("No clock that jumps: the package libfaketime is not installed.")
        del left[attacks.clock_jumps]
    return left


def fits(attack: attacks.Attack, kind: str) -> bool:
    """Whether an attack can be made on a job: only trainings have workers, which wait for each other."""
    return attack is not attacks.frozen_peers or kind in ("training", "pipeline")


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="The number of rounds.")
    parser.add_argument(
        "--minutes",
        type=float,
        default=0.0,
        help="No further series begins after this many minutes; 0 means no limit.",
    )
    parser.add_argument("--seed", type=int, default=0, help="The seed of the choice of attacks.")
    parser.add_argument(
        "--jobs", nargs="+", choices=list(JOBS), default=list(JOBS), help="The commands that are attacked."
    )
    parser.add_argument(
        "--more",
        action="store_true",
        help="Keep the rounds that an earlier study has kept, and run those that are missing.",
    )
    arguments = parser.parse_args()
    left = usable()

    # Imported only now, because it imports TensorFlow, and `usable` may start this program again.
    from benchmarks.faults.volume_jobs import building, make_inputs, segmentation

    started = time.monotonic()
    reports = read_rounds(RESULTS / ROUNDS) if arguments.more else []
    decks = continued(reports, arguments.seed)
    cards = {kind: [a for a, count in left.items() if fits(a, kind) for _ in range(count)] for kind in JOBS}
    kinds = [name for name in arguments.jobs for _ in range(JOBS[name])]
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        folder = Path(name)
        pairs = swept(arguments, folder)
        inputs = folder / "inputs"
        make_inputs(inputs)
        rounds_file = (RESULTS if arguments.save else folder) / ROUNDS
        write_rounds(rounds_file, reports)
        expected: dict[tuple[str, bool], tuple[Result, float]] = {}
        trainings = 0
        while len(reports) < arguments.rounds:
            if arguments.minutes and time.monotonic() - started > 60 * arguments.minutes:
                break
            kind = decks.deal("jobs", kinds)
            trainings += kind == "training"
            other = kind == "training" and trainings % 4 == 3
            # Dropout draws different numbers on another mesh.
            dropout = ("--dropout", "0.0" if other else "0.3")
            job = {
                "training": lambda dropout=dropout: training(*dropout),
                "segmentation": lambda: segmentation(inputs),
                "building": lambda: building(inputs),
                "pipeline": pipeline,
            }[kind]()
            again = training(*dropout, *OTHER_MESH, processes=1) if other else job
            if (kind, other) not in expected:
                expected[kind, other] = undisturbed(job, folder / f"{kind}-{other}")
                print(f"{kind} takes {expected[kind, other][1]:.0f} s", flush=True)
            result, seconds = expected[kind, other]
            chosen = [decks.deal(kind, cards[kind]) for _ in range(min(SERIES, arguments.rounds - len(reports)))]
            place = folder / str(len(reports) + 1)
            series = Series(job, again, result, seconds, place)
            made = rounds_of(series, chosen, len(reports) + 1, decks, arguments.seed)
            reports += made
            write_rounds(rounds_file, reports)
            shutil.rmtree(place, ignore_errors=True)
    rows = rows_of(reports, {name: seconds for (name, _), (_, seconds) in expected.items()}) + sweep_rows(pairs)
    # The command of a whole study, even if this one was continued.
    command = " ".join(["python -m benchmarks.faults", *(a for a in sys.argv[1:] if a != "--more")])
    settings = {name: value for name, value in vars(arguments).items() if name != "more"}
    finish("faults", rows, settings, command, save=arguments.save)
    raise SystemExit(1 if any(report.wrong for report in reports) or any(pairs.values()) else 0)


def continued(reports: list[Report], seed: int) -> attacks.Decks:
    """The decks of a study that already has these rounds: the signals that were sent come after all others."""
    decks = attacks.Decks(random.Random(f"{seed} {len(reports)}"))
    for sent in (sent for report in reports for sent in report.signals):
        receiver, _, name = sent.rpartition(": ")
        decks.take(receiver, attacks.SIGNALS, signal.Signals[name])
    return decks


def write_rounds(path: Path, reports: list[Report]) -> None:
    """Write the records of the rounds, each as a line of JSON."""
    path.write_text("".join(json.dumps(asdict(report)) + "\n" for report in reports), encoding="utf-8")


def read_rounds(path: Path) -> list[Report]:
    """Read the records of the rounds that `write_rounds` has written."""
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [Report(**{**report, "signals": tuple(report["signals"])}) for report in found]


def sweep_rows(pairs: dict[str, str]) -> list[dict]:
    """The row of the table for what `sweep` has found."""
    good = sum(not wrong for wrong in pairs.values())
    figure = f"of {len(pairs)} pairs of a signal and a process of the launcher's job, those that left nothing behind"
    return [row(figure, good, None, len(pairs), smallest=True)]


def swept(arguments: argparse.Namespace, folder: Path) -> dict[str, str]:
    """What `sweep` finds, or has found in the study that is continued."""
    path = (RESULTS if arguments.save else folder) / SWEEP
    if arguments.more:
        lines = (RESULTS / SWEEP).read_text(encoding="utf-8").splitlines()
        return {found["pair"]: found["wrong"] for found in map(json.loads, lines)}
    pairs = sweep(folder, random.Random(arguments.seed))
    for pair, wrong in pairs.items():
        if wrong:
            print(f"{pair}: {wrong}", flush=True)
    lines = [json.dumps({"pair": pair, "wrong": wrong}) + "\n" for pair, wrong in pairs.items()]
    path.write_text("".join(lines), encoding="utf-8")
    return pairs


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
    for names, text in (
        ([attack.__name__ for attack in ATTACKS], "with {}"),
        (list(JOBS), "of the {}"),
    ):
        for name in names:
            mine = [report for report in reports if name in (report.attack, report.job)]
            if mine:
                ok = sum(not report.wrong for report in mine)
                figure = f"of {len(mine)} {text.format(name.replace('_', ' '))}"
                rows.append(row(figure, ok, None, len(mine), smallest=True))
    sent = {text for report in reports for text in report.signals}
    for receiver in sorted({text.rpartition(": ")[0] for text in sent}):
        count = sum(text.rpartition(": ")[0] == receiver for text in sent)
        rows.append(row(f"of {len(attacks.SIGNALS)} signals, those sent to {receiver}", count))
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
