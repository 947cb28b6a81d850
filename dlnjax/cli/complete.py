"""Completion of the command line: three short shell scripts that ask the command itself what could stand next.

``dlnjax completion SHELL`` prints the script. It calls ``dlnjax __complete WORD...``, the last word being the one under
the cursor (perhaps empty), and gets one whole word a line. No answer leaves the word to the shell, which completes file
names. Answers come from the parser and from the table of a config's options, without JAX or any extra.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from dlnjax.cli import benchmarks, parser
from dlnjax.sweep.config import options

_BASH = """_dlnjax() {
    local line=${COMP_LINE:0:COMP_POINT} words current answer cut
    read -ra words <<< "$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    current=${words[-1]} COMPREPLY=()
    # Readline breaks words at "=" and replaces only what stands behind it.
    [[ $COMP_WORDBREAKS == *=* && $current == *=* ]] && cut=${current%"${current##*=}"}
    while IFS= read -r answer; do
        COMPREPLY+=("${answer#"$cut"}")
    done < <("${words[0]}" __complete "${words[@]:1}" 2>/dev/null)
    [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace
}
complete -o default -F _dlnjax dlnjax
"""
_ZSH = """#compdef dlnjax
_dlnjax() {
    local -a answers
    answers=("${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT-1]}" "$PREFIX" 2>/dev/null)}")
    if [[ -z ${answers[1]} ]]; then
        _files
    elif [[ ${answers[1]} == *= ]]; then
        compadd -S '' -- "${answers[@]}"
    else
        compadd -- "${answers[@]}"
    fi
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _dlnjax "$@"
else
    compdef _dlnjax dlnjax
fi
"""
_FISH = """function __dlnjax_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    set -l answers ($words[1] __complete $words[2..-1] "$current" 2>/dev/null)
    if test (count $answers) -gt 0
        printf '%s\\n' $answers
    else
        __fish_complete_path "$current"
    end
end
complete -c dlnjax -f -a '(__dlnjax_complete)'
"""
#: Shell -> its script.
SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def answers(words: Sequence[str]) -> list[str]:
    """What the last of these words could be, behind the others; empty where it is for the shell to say.

    Args:
      words: as typed behind ``dlnjax``, at least one, the last up to the cursor.
    """
    *before, current = words
    main = parser.build()
    commands = parser.commands(main)
    if not before:
        choices = [*commands, *_options(main)] if current.startswith("-") else list(commands)
    elif before[0] in commands:
        choices = _arguments(commands[before[0]], before, current)
    else:
        choices = []
    return [word for word in choices if word.startswith(current)]


def _arguments(command: argparse.ArgumentParser, before: list[str], current: str) -> list[str]:
    """Words inside a command: an option's values, options, or the choices of what stands alone."""
    option, sign, _ = current.partition("=")
    if sign and option.startswith("-"):
        return [f"{option}={value}" for value in _values(command, option)]
    if current.startswith("-"):
        return _options(command)
    asked = next((word for word in reversed(before) if word.startswith("-")), "")
    if asked == "--set":
        return _settings(current)
    if asked and asked == before[-1] and _takes(command, asked):
        return _values(command, asked)
    if before == ["bench"]:
        return benchmarks.names()
    return [str(choice) for action in command._get_positional_actions() for choice in action.choices or ()]


def _options(command: argparse.ArgumentParser) -> list[str]:
    return [option for option in command._option_string_actions if option.startswith("--")]


def _takes(command: argparse.ArgumentParser, option: str) -> bool:
    """Whether an option has a value behind it."""
    action = command._option_string_actions.get(option)
    return action is not None and action.nargs != 0


def _values(command: argparse.ArgumentParser, option: str) -> list[str]:
    action = command._option_string_actions.get(option)
    return [str(choice) for choice in action.choices or ()] if action is not None else []


def _settings(current: str) -> list[str]:
    """``option=`` for ``--set``; behind the sign, the words that the option may be."""
    dotted = [f"{section}.{name}" for section, table in _SECTIONS.items() for name in table]
    name, sign, _ = current.partition("=")
    if not sign:
        return [f"{known}=" for known in (*options.names(), *(dotted if "." in current else ()))]
    one = options.find(name.rpartition(".")[2])
    return [f"{name}={choice}" for choice in one.choices] if one is not None else []


_SECTIONS = {"start": options.START, "record": options.RECORD, "base": options.GRID, "grid.0": options.GRID}
