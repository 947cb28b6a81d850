"""What each command does: parse, call, print. All imports of size stand inside the commands."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlnjax.sweep.config.loading import Document, Sweep
    from dlnjax.sweep.driver.progress import Progress, Value
    from dlnjax.sweep.driver.run import Outcome


def new(args: argparse.Namespace) -> int:
    """Print a commented config, or write it to a file that is not there yet."""
    from dlnjax.cli import template

    name = re.sub(r"[^a-z0-9_]+", "_", args.file.stem.lower())[:80] if args.file else "my_study"
    text = template.text(
        args.kind, name or "my_study", shlex.quote(str(args.file)) if args.file else "CONFIG"
    )
    if args.file is None:
        print(text, end="")
        return 0
    if args.file.exists():
        raise FileExistsError(f"{args.file}: is there already; remove it or give another name")
    args.file.write_text(text, encoding="utf-8")
    print(f"{args.file}: written; run it with: dlnjax run {shlex.quote(str(args.file))}")
    return 0


def run(args: argparse.Namespace) -> int:
    """Validate, run what is missing, analyse, and print what came out."""
    from dlnjax.sweep.config import datasets, loading, user_functions

    _need("pyarrow", "tqdm", "matplotlib")  # now, not after hours of computing
    document = loading.parse(args.config)
    if document.is_campaign:
        return _campaign(document, args)
    sweep = loading.load(document, args.set)
    if sweep.problem.kind != "file" and (
        lines := loading.data_problems(sweep)
    ):  # load has read a user's file
        raise loading.SpecError([f"{args.config}: {line}" for line in lines])
    user_functions.check(sweep, elsewhere=False)  # a config names functions, it does not hold them
    out = args.out or Path("results") / sweep.study
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{out}: --out is a file; give a folder")
    if args.dry_run:
        from dlnjax.cli import dry_run

        print(dry_run.text(sweep, out))
        return 0
    if args.slurm:
        return _submit(out, args)
    if not args.quiet and (taken := datasets.taken_as(sweep.problem)):
        print(f"data: {taken}")
    outcome = _compute(sweep, out, args)
    for shard, reason in outcome.failed.items():
        print(f"dlnjax: shard {shard} failed: {reason}", file=sys.stderr)
    failed = bool(outcome.failed) or not outcome.complete
    return max(int(failed), _analyse(out, args.quiet)) if outcome.done else 1


def _campaign(document: Document, args: argparse.Namespace) -> int:
    """Run a campaign, keep its rows, claims and figure; 1 if a statement was violated."""
    from dlnjax.campaigns import config
    from dlnjax.campaigns.run import run as run_campaign
    from dlnjax.sweep.compute import devices

    campaign = config.load(document, args.set)
    out = args.out or Path("results") / campaign.study
    for name in ("workers", "dask", "slurm", "hosts", "extend", "json_events"):
        if getattr(args, name):
            option = "--" + name.replace("_", "-")
            raise ValueError(f"run: {option} is for sweeps; a campaign runs whole, in this process")
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"{out}: --out is a file; give a folder")
    if args.dry_run:
        settings = ", ".join(f"{name} = {value}" for name, value in campaign.settings)
        print(f"{campaign.study}: campaign {campaign.campaign}, {settings}")
        print(f"results would go to {out}; nothing was run or written")
        return 0
    if campaign.campaign in ("flow_limit", "modes"):
        _need("diffrax")
    devices.prepare(campaign.precision, cpu_devices=1)
    listen = None if args.quiet else lambda finding: print(finding, end="\n\n", flush=True)
    findings = run_campaign(campaign, out, listen)
    written = import_module("dlnjax.campaigns.claims").write(out)
    if not args.quiet:
        print(written.text)
    return int(any(finding.violations for finding in findings))


def status(args: argparse.Namespace) -> int:
    """How far a sweep is; 1 if cells or shards of it failed, or its manifest is damaged."""
    from dlnjax.sweep.store import verify as checks

    state = checks.status(args.out)
    print(f"{args.out}: " + "\n  ".join(state.lines()))
    return int(bool(state.damage) or bool(state.failed) or state.by_status.get("failed", 0) > 0)


def verify(args: argparse.Namespace) -> int:
    """Every promise of a results folder; 1 if one is broken."""
    from dlnjax.sweep.store import verify as checks

    verdict = checks.verify(args.out)
    print(f"{args.out}: " + "\n  ".join(verdict.lines()))
    return int(not verdict.sound)


def compact(args: argparse.Namespace) -> int:
    """Few files in the place of many; 1 if some are damaged."""
    from dlnjax.sweep.store import compaction

    merged = compaction.compact(args.out)
    print(f"{args.out}: " + "\n  ".join(merged.lines()))
    return int(bool(merged.damage))


def report(args: argparse.Namespace) -> int:
    """A page about the results."""
    from dlnjax.analysis import report as pages

    print(pages.write(args.out, format=args.format, interactive=args.interactive))
    return 0


def export(args: argparse.Namespace) -> int:
    """All cells for other programs: scalars as CSV, or everything as NetCDF or Zarr."""
    target = args.output or args.out / f"export{ {'csv': '.csv', 'netcdf': '.nc', 'zarr': '.zarr'}[args.to] }"
    if target.exists():
        raise FileExistsError(f"{target}: is there already; remove it or give another --output")
    rows = import_module("dlnjax.analysis").measured(args.out)
    tables = import_module("dlnjax.analysis.tables")
    atomic = import_module("dlnjax.sweep.store.atomic")
    with atomic.whole(
        target
    ) as temporary:  # a full disk leaves no part of it, which would be in the way of the next
        if args.to == "csv":
            temporary.write_bytes(tables.to_csv(rows, for_spreadsheets=True).encode())
        else:
            data = tables.to_xarray(rows)
            data.to_netcdf(temporary) if args.to == "netcdf" else data.to_zarr(temporary, zarr_format=2)
    print(f"{target}: {len(rows)} cells")
    return 0


def bench(args: argparse.Namespace) -> int:
    """Hand the arguments to ``dlnjax.bench.<name>.main``."""
    from dlnjax.cli import benchmarks

    names = benchmarks.names()
    if args.benchmark is None or args.benchmark not in names:
        known = ", ".join(names) or "none in this version"
        wanted = f"{args.benchmark!r} is not a benchmark; " if args.benchmark else "name a benchmark; "
        raise ValueError(f"bench: {wanted}there are: {known}")
    return import_module(f"dlnjax.bench.{args.benchmark}").main(args.arguments) or 0


def doctor(args: argparse.Namespace) -> int:
    """Versions, devices and self-tests."""
    from dlnjax.cli import doctor as checks

    return checks.run()


def completion(args: argparse.Namespace) -> int:
    """The script that makes a shell complete our words."""
    from dlnjax.cli import complete

    print(complete.SCRIPTS[args.shell], end="")
    return 0


def reproduce(args: argparse.Namespace) -> int:
    """Committed studies again, compared with what is committed; 1 if a number moved."""
    _need("pyarrow", "tqdm", "matplotlib")
    return import_module("dlnjax.cli.reproduce").reproduce(args)


def _compute(sweep: Sweep, out: Path, args: argparse.Namespace) -> Outcome:
    """Run the cells that ``out`` lacks, with the executor that the options name."""
    from dlnjax.sweep.compute import devices
    from dlnjax.sweep.driver import executors, launch
    from dlnjax.sweep.driver.run import run as run_sweep

    with ExitStack() as stack:
        listen = stack.enter_context(_listeners(args))
        executor = stack.enter_context(executors.choose(args.workers or 0, args.dask, args.timeout))
        if executor is None:  # workers prepare themselves
            devices.prepare(sweep.precision)
        if args.hosts:
            launch.hosts(*args.hosts)
        return run_sweep(sweep, out, executor=executor, extend=args.extend, listen=listen)


def _submit(out: Path, args: argparse.Namespace) -> int:
    """Hand this very command to Slurm, some times over; the jobs share the folder as any runners do."""
    from dlnjax.sweep.driver import launch

    command = [sys.executable, "-m", "dlnjax", "run", str(Path(args.config).absolute())]
    command += ["--out", str(out.absolute()), "--quiet", *(["--extend"] if args.extend else [])]
    command += ["--set", *args.set] if args.set else []
    command += ["--workers", str(args.workers)] if args.workers else []
    command += ["--timeout", str(args.timeout)] if args.timeout else []
    options = dict(args.slurm_option)
    jobs = launch.slurm(command, args.slurm, out / "slurm", **options)
    names = ", ".join(job.job_id for job in jobs)
    print(f"submitted {len(jobs)} runners ({names}); logs in {out / 'slurm'}; see: dlnjax status {out}")
    if options.get("cluster") == "local":  # children of this process: they would end with it
        return int(sum(map(_failed, jobs)) > 0)
    return 0


def _failed(job: Any) -> bool:
    """Whether a job did not end well, which is said in a line; what it completed is kept."""
    try:
        job.result()
    except Exception as error:  # submitit's, for a job out of time or killed, or what the job itself raised
        reason = next(
            (line.strip() for line in reversed(str(error).splitlines()) if line.strip()), "no reason given"
        )
        print(f"dlnjax: runner {job.job_id}: {type(error).__name__}: {reason}", file=sys.stderr)
        return True
    return False


@contextmanager
def _listeners(args: argparse.Namespace) -> Iterator[Progress]:
    """Progress on standard error, and events to a file where one is named."""
    from dlnjax.sweep.driver import progress

    with ExitStack() as stack:
        listeners = [progress.choose("quiet" if args.quiet else "auto")]
        if args.json_events:
            sink = stack.enter_context(open(args.json_events, "a", encoding="utf-8"))
            listeners.append(progress.choose("json", sink))

        def listen(name: str, **values: Value) -> None:
            for listener in listeners:
                listener(name, **values)

        yield listen


def _analyse(out: Path, quiet: bool) -> int:
    """Tables and figures of what is there; 1 if a cell failed."""
    from dlnjax import analysis

    written = analysis.write(out)
    if not quiet:
        print(written.text)
    return int(_statuses(out)["failed"] > 0)


def _statuses(out: Path) -> Counter[str]:
    from dlnjax.sweep import store

    return Counter(store.read(out, ["status"])["status"].to_pylist()) if store.done(out) else Counter()


def _need(*modules: str) -> None:
    """Raise ModuleNotFoundError for the first of these that is not installed."""
    for module in modules:
        if find_spec(module) is None:
            raise ModuleNotFoundError(f"{module} is not installed", name=module)


COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "new": new,
    "run": run,
    "status": status,
    "verify": verify,
    "compact": compact,
    "report": report,
    "export": export,
    "reproduce": reproduce,
    "bench": bench,
    "doctor": doctor,
    "completion": completion,
}
