"""Arguments of the ``dlnjax`` command.

It imports the standard library and the table of options only, so that ``--help`` is immediate.
"""

from __future__ import annotations

import argparse
import difflib
import math
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from dlnjax.sweep.config import options

_MAIN = """a first study:
  dlnjax new my_study.toml              write a commented config
  dlnjax run my_study.toml              train its networks; results go to results/my_study
  dlnjax report results/my_study        write results/my_study/report.html

exit codes: 0 all well; 1 some cells failed, or files are damaged; 2 a mistake in what was given, or an
extra is missing; 130 Ctrl-C; 143 SIGTERM. DLNJAX_TRACEBACK=1 shows where an error arose."""
_NEW = """examples:
  dlnjax new my_study.toml
  dlnjax new my_data.toml --kind file   your own data, an .npz with x and y
  dlnjax new                            print it

A file that is there is left alone (exit code 2)."""
_RUN = """examples:
  dlnjax run configs/smoke.toml
  dlnjax run configs/depth_rate.toml --dry-run
  dlnjax run configs/depth_rate.toml --out results/wide --set "width=[8]" record.records=512
  dlnjax run configs/depth_rate.toml --out results/shallow --set "grid.0.depth=[2, 4]"
  dlnjax run configs/depth_rate.toml --slurm 16 --slurm-option slurm_partition=long

--set takes an option of the config: a bare one of a grid (depth, width, seed, ...) sets it in every grid, a
dotted one (record.records, grid.0.depth) in one place. Quote brackets. Another config needs another --out.

What is complete is kept, whatever happens: the same command finishes the rest.
exit codes: 0 every cell ran; 1 some failed or are missing; 2 a mistake, nothing was run; 130, 143 stopped.

options of a config, for --set ("dlnjax new" prints what each may be):
{options}"""
_STATUS = """example:
  dlnjax status results/depth_rate

exit codes: 0 nothing failed so far; 1 cells or shards failed; 2 no sweep there."""
_VERIFY = """example:
  dlnjax verify results/depth_rate

Every file is read and compared with its hash; what dead runners left behind is harmless and listed apart.
exit codes: 0 sound; 1 damaged, one line a finding; 2 no sweep there."""
_COMPACT = """example:
  dlnjax compact results/depth_rate

The files of finished shards, one per shard, become few files; reading 20,000 shards then takes seconds.
Killed at any moment no result is lost, and the same command finishes. All other commands work as before.
exit codes: 0 merged, or nothing to merge; 1 damaged files were left as they are; 2 no sweep there."""
_REPORT = """examples:
  dlnjax report results/depth_rate                    DIR/report.html: needs no other file and no network
  dlnjax report results/depth_rate --no-interactive   the same without the 5 MB script
  dlnjax report results/depth_rate --format md        DIR/report.md, with the figures beside it"""
_EXPORT = """examples:
  dlnjax export results/depth_rate --to csv           a line a cell, without curves
  dlnjax export results/depth_rate --to netcdf        everything, with names and units (extra export)

Failed and diverged cells are in it: filter on the column status. An existing file is left alone."""
_REPRODUCE = """examples, in a checkout:
  dlnjax reproduce --fast               a few cells of some studies
  dlnjax reproduce depth_rate momentum
  dlnjax reproduce                      every committed study; hours

exit codes: 0 nothing moved beyond its tolerance; 1 something did, or a run failed; 2 a mistake."""
_BENCH = """benchmarks:
  cells    whole sweeps: programs, time outside the devices, a million cells
  folder   a simulation of many runners on one folder: how many it bears
  methods  evaluations that each kind of optimizer needs on the reference case
  optim    time per optimizer step, and drift over 100 000 steps
  sparse   sparse codes by a network, against its bare convolutions and other coders
  sweep    time per step and network of the training engines

Other packages take part where the extra bench is installed. dlnjax bench NAME --help says what NAME takes."""
_DOCTOR = """exit codes: 0 all checks passed; 1 one failed, its line says by how much."""
_COMPLETION = """install it for good:
  bash   echo 'eval "$(dlnjax completion bash)"' >> ~/.bashrc
  zsh    echo 'eval "$(dlnjax completion zsh)"' >> ~/.zshrc      (behind compinit)
  fish   dlnjax completion fish > ~/.config/fish/completions/dlnjax.fish"""


#: What ``--dask`` without an address stands for: a cluster on this machine.
LOCAL = "local"


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose mistakes take one line and name the nearest choice."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, formatter_class=_Formatter, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        """One line on standard error, and the end with code 2."""
        text = " ".join(message.split())
        print(f"{self.prog}: {text}; see {self.prog} --help", file=sys.stderr)
        sys.exit(2)

    def _check_value(self, action: argparse.Action, value: object) -> None:
        if action.choices is not None and value not in action.choices:
            near = difflib.get_close_matches(str(value), list(action.choices), n=1)
            hint = f"did you mean {near[0]}? " if near else ""
            known = ", ".join(map(str, action.choices))
            raise argparse.ArgumentError(action, f"{value!r} is not known; {hint}choose from {known}")


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def __init__(self, prog: str, **kwargs: Any):
        super().__init__(prog, max_help_position=30, **kwargs)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; exits with code 2 and one line on a mistake, 0 after ``--help``."""
    parser = build()
    words = list(sys.argv[1:] if argv is None else argv)
    if not words:
        parser.print_help(sys.stderr)
        sys.exit(2)
    args, rest = parser.parse_known_args(words)
    if args.command == "bench":
        if args.benchmark is None and {"-h", "--help"} & set(rest):
            commands(parser)["bench"].print_help()
            sys.exit(0)
        args.arguments = rest  # read by the benchmark itself
    elif rest:
        _unknown(parser, args.command, rest)
    if args.command == "run":
        _settle(args, parser)
    return args


def build() -> Parser:
    """The parser of all commands."""
    parser = Parser(
        prog="dlnjax",
        description="Deep linear networks with orthonormal layers: sweeps, and what theory says of them.",
        epilog=_MAIN,
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, text: str, epilog: str | None = None, **kwargs: Any) -> Parser:
        return commands.add_parser(name, help=text, description=text, epilog=epilog, **kwargs)

    _new(command("new", "Print a commented config, or write it to a file.", _NEW))
    text = "Run a config's cells, or what is missing of them, and analyse the results."
    _run(command("run", text, _RUN.format(options=_options_of_a_config())))
    _folder(command("status", "How far the sweep in a folder is; also while it runs.", _STATUS))
    _folder(command("verify", "Check everything a results folder promises; name damaged files.", _VERIFY))
    _folder(command("compact", "Merge the files of finished shards into few.", _COMPACT))
    _report(command("report", "Write a report page about the results in a folder.", _REPORT))
    _export(command("export", "Write a folder's results for other programs.", _EXPORT))
    _reproduce(command("reproduce", "Run committed studies again and say which numbers moved.", _REPRODUCE))
    text = "Run a benchmark; what follows its name goes to the benchmark."
    bench = command("bench", text, _BENCH, add_help=False)  # --help behind a name is the benchmark's
    bench.add_argument("benchmark", nargs="?", metavar="NAME", help="which, of those below")
    command("doctor", "Versions, devices, precision and a self-test of the geometry.", _DOCTOR)
    completion = command(
        "completion",
        "Print a script that completes commands and options, those of a config too.",
        _COMPLETION,
    )
    shells = ("bash", "zsh", "fish")
    completion.add_argument("shell", choices=shells, metavar="SHELL", help=" | ".join(shells))
    return parser


def commands(parser: Parser) -> dict[str, Parser]:
    """The parser of every command, by name."""
    return next(a.choices for a in parser._actions if isinstance(a, argparse._SubParsersAction))


def _options_of_a_config() -> str:
    """One line per option: its name and what it is."""
    lines = []
    for title, names in _HELP.items():
        lines.append(f"  {title}")
        for name in names:
            one = options.find(name)
            words = textwrap.wrap(one.note if one else "", 84)
            lines += [
                f"    {name:<18}{words[0] if words else ''}".rstrip(),
                *(" " * 22 + w for w in words[1:]),
            ]
    return "\n".join(lines)


_HELP = {
    "at the top": list(options.TOP),
    "[problem]": ["kind", *dict.fromkeys(name for table in options.PROBLEMS.values() for name in table)],
    "[start]": list(options.START),
    "[record]": list(options.RECORD),
    "[base] and [[grid]]": list(options.GRID),
}


def _new(parser: Parser) -> None:
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="file to write; none: print it")
    kinds = options.KINDS
    parser.add_argument("--kind", default="teacher", choices=kinds, metavar="KIND", help=" | ".join(kinds))


def _run(parser: Parser) -> None:
    parser.add_argument("config", nargs="?", metavar="CONFIG", help="the TOML file that says what to run")
    parser.add_argument("--out", type=_place, metavar="DIR", help="results folder (default: results/<study>)")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="change options of the config for this run",
    )
    parser.add_argument("--dry-run", action="store_true", help="say what would run; run and write nothing")
    parser.add_argument("--workers", type=_count, metavar="N", help="spawn N processes (default: this one)")
    parser.add_argument(
        "--timeout",
        type=_seconds,
        metavar="SECONDS",
        help="with --workers: end one that takes longer a shard",
    )
    parser.add_argument(
        "--dask",
        nargs="?",
        const=LOCAL,
        metavar="ADDRESS",
        help="run on a Dask cluster (default: one on this machine)",
    )
    parser.add_argument("--slurm", type=_count, metavar="JOBS", help="submit JOBS runners and return")
    parser.add_argument(
        "--slurm-option",
        action="append",
        default=[],
        type=_pair,
        metavar="KEY=VALUE",
        help="a parameter of submitit, as slurm_partition=gpu",
    )
    parser.add_argument(
        "--hosts",
        nargs=3,
        metavar=("HOST:PORT", "PROCESSES", "INDEX"),
        help="join a jax.distributed group: process 0's address, how many, which",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress, no table; mistakes only")
    parser.add_argument("--json-events", metavar="FILE", help="append a JSON object an event to FILE")
    parser.add_argument("--extend", action="store_true", help="let the config add cells to an older folder")


def _folder(parser: Parser) -> None:
    parser.add_argument("out", type=_place, metavar="DIR", help="a results folder, as given to run --out")


def _report(parser: Parser) -> None:
    _folder(parser)
    parser.add_argument("--format", default="html", choices=("html", "md"), metavar="F", help="html | md")
    parser.add_argument(
        "--interactive",
        action=argparse.BooleanOptionalAction,
        help="curves to zoom into, 5 MB of script (default: where plotly is installed)",
    )


def _export(parser: Parser) -> None:
    _folder(parser)
    formats = ("csv", "netcdf", "zarr")
    parser.add_argument("--to", required=True, choices=formats, metavar="FORMAT", help=" | ".join(formats))
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="where to (default: DIR/export.csv, .nc or .zarr)"
    )


def _reproduce(parser: Parser) -> None:
    parser.add_argument("studies", nargs="*", metavar="STUDY", help="names of studies (default: all)")
    parser.add_argument("--fast", action="store_true", help="a few cells of some studies, about a minute")
    parser.add_argument("--update", action="store_true", help="put the new results into the place of the old")
    parser.add_argument(
        "--jobs",
        type=_count,
        default=1,
        metavar="N",
        help="studies at a time: less time in all, more for each",
    )
    for name, default, text in (
        ("results", "results", "the committed results"),
        ("configs", "configs", "their configs"),
        ("out", "build/reproduced", "where the new results go"),
    ):
        text = f"{text} (default: {default})"
        parser.add_argument(f"--{name}", type=_place, default=Path(default), metavar="DIR", help=text)


def _settle(args: argparse.Namespace, parser: Parser) -> None:
    """``--set`` takes any number of words; a config that stands behind it is not one of them."""
    strays = [word for word in args.set if "=" not in word]
    if args.config is None and len(strays) == 1:
        args.config = strays[0]
        args.set.remove(strays[0])
    if args.config is None and args.dask and args.dask.endswith(".toml"):  # so does --dask with its address
        args.config, args.dask = args.dask, LOCAL
    if args.config is None:
        parser.error("run: no CONFIG given; name one, or make one with: dlnjax new FILE")
    _engines(args, parser)


def _engines(args: argparse.Namespace, parser: Parser) -> None:
    """One engine a run; options that belong to one need it."""
    # a Slurm job may have workers of its own
    named = [name for name in ("dask", "slurm", "hosts", "workers") if getattr(args, name)]
    if len(named) > 1 and named != ["slurm", "workers"]:
        parser.error(f"run: {' and '.join('--' + name for name in named)} exclude each other; give one")
    if args.timeout and not args.workers:
        parser.error("run: --timeout ends workers that hang; give --workers N too")
    if args.slurm_option and not args.slurm:
        parser.error("run: --slurm-option is for Slurm; give --slurm JOBS too")
    if args.hosts:
        address, *numbers = args.hosts
        if ":" not in address or not all(n.isascii() and n.isdigit() for n in numbers):
            parser.error(
                f"run: --hosts {' '.join(args.hosts)}: give HOST:PORT, how many processes, and which"
            )
        args.hosts = (address, *(int(n[:9]) for n in numbers))


def _unknown(parser: Parser, command: str, rest: list[str]) -> NoReturn:
    """Complain about arguments no one takes, with the nearest option."""
    known = [flag for flag in _flags(parser, command) if flag.startswith("--")]
    near = difflib.get_close_matches(rest[0].partition("=")[0], known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"options are {', '.join(known)}"
    parser.error(f"{command}: {rest[0]!r} is not an argument; {hint}")


def _flags(parser: Parser, command: str) -> list[str]:
    return list(commands(parser)[command]._option_string_actions)


def _place(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is empty; give a folder")
    return Path(text)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= 10_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 10000")
    return int(text)


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a positive number of seconds")
    return number


def _pair(text: str) -> tuple[str, str | int]:
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, int(value) if value.isascii() and value.isdigit() else value


class _Version(argparse.Action):
    """Looks the version up only when asked, for that takes longer than all the rest."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> NoReturn:
        from dlnjax import __version__

        print(f"dlnjax {__version__}")
        sys.exit(0)
