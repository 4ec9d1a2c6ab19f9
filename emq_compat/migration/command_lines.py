"""Looks for Celery's command line in files that start programs: Procfiles, units, compose files, scripts …"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from emq_compat.migration.finding import DIFFERENT, NOT_SEEN, Finding, Verdict
from emq_compat.migration.strings import PLUGIN, PLUGIN_VERDICT
from emq_compat.migration.verdicts import Verdicts, setting_named
from emq_compat.migration.yaml_lines import arguments, list_words, yaml_words

__all__ = ["command_lines", "holds_commands", "in_words"]

_NAMES: Final = re.compile(
    r"(Procfile|Dockerfile|Containerfile|Makefile|GNUmakefile|Vagrantfile|Jenkinsfile|justfile|supervisord?)"
    r"([._-].*)?|.*\.(Dockerfile|Procfile)|\.env(\..*)?|celeryd?|celerybeat",
    re.IGNORECASE,
)
_SUFFIXES: Final = frozenset(
    {
        ".bash", ".bat", ".cfg", ".conf", ".env", ".fish", ".hcl", ".ini", ".json", ".mk", ".nix", ".ps1",
        ".service", ".sh", ".tf", ".toml", ".tpl", ".yaml", ".yml", ".zsh", ".j2", ".template",
    }
)  # fmt: skip
#: `celery` as a program: by itself, by its path, as `-m celery`, or in the variable of Celery's own units.
_CALL: Final = re.compile(
    r"""(?<![\w.@:=\-])(?:(?:[\w./~${}\-]*/)?celery|\$[{(]?CELERY(?:_BIN)?[})]?)(?=["']?(?:[\s,\]]|$))"""
)
#: Options that stand before the command, with a value.
_GLOBAL: Final = frozenset(
    {"-A", "--app", "-b", "--broker", "--result-backend", "--loader", "--config", "--workdir"}
)
_FLAGS: Final = frozenset({"-C", "--no-color", "-q", "--quiet", "--version", "--help", "--skip-checks"})
#: Flags of Celery's commands: what follows them is no value of theirs.
_WITHOUT_VALUE: Final = frozenset(
    {
        "-D", "--detach", "-E", "--task-events", "--events", "-B", "--beat", "--purge", "--discard",
        "--without-gossip", "--without-mingle", "--without-heartbeat", "--disable-prefetch", "-f", "--force",
    }
)  # fmt: skip
_PLUGIN: Final = re.compile(rf"""-p[\s"',=]*{re.escape(PLUGIN)}\b""")
#: What stands behind the program in a list of quoted words.
_IN_LIST: Final = re.compile(r"""["']\s*,""")
_ENVIRONMENT = re.compile(r"""(?:^|[\s"'{,])(CELERY_\w+)["']?\s*[=:]\s*["']?([^\s"',}]*)""")


def holds_commands(path: Path) -> bool:
    """Whether a file's name is one of those that start programs."""
    return path.suffix.lower() in _SUFFIXES or _NAMES.fullmatch(path.name) is not None or not path.suffix


def command_lines(path: Path, text: str, verdicts: Verdicts) -> list[Finding]:
    """Return what is found in a file that starts programs."""
    found: list[Finding] = []
    lines = text.splitlines()
    number = 0
    while number < len(lines):
        first = number
        line = lines[number]
        number += 1
        if line.lstrip().startswith(("#", "//", ";")):
            continue
        found.extend(_environment(path, first + 1, line, verdicts))
        if _PLUGIN.search(line):
            found.append(
                Finding(
                    path=path, line=first + 1, column=0, kind="string", name=PLUGIN,
                    status=PLUGIN_VERDICT.status, reason=PLUGIN_VERDICT.reason,
                )
            )  # fmt: skip
        match = _CALL.search(line)
        if match is None:
            continue
        while line.rstrip().endswith("\\") and number < len(lines):
            line = line.rstrip()[:-1] + " " + lines[number].strip()
            number += 1
        rest = line[match.end() :]
        in_yaml = path.suffix in (".yml", ".yaml")
        if _IN_LIST.match(rest):
            number, rest = list_words(lines, number, rest)
        elif in_yaml:
            number, more = yaml_words(lines, first, number)
            rest += " " + more
        words = _words(rest)
        if in_yaml and not words:
            number, more = arguments(lines, number)
            words = _words(more)
        if _is_call(words, verdicts):
            found.extend(in_words(path, first + 1, words, verdicts))
    return found


def in_words(path: Path, line: int, words: Sequence[str], verdicts: Verdicts) -> Iterator[Finding]:
    """Yield what is found in the words that follow ``celery``.

    Args:
        path: the file.
        line: where the command line begins, from 1.
    """

    def finding(name: str, verdict: Verdict) -> Finding:
        return Finding(
            path=path, line=line, column=0, kind="command", name=name,
            status=verdict.status, reason=verdict.reason,
        )  # fmt: skip

    command = ""
    waiting = list(words)
    while waiting:
        word = waiting.pop(0)
        if word == "--":
            if waiting:
                listed = verdicts.row("worker", "settings after `--`")
                yield finding("settings after --", listed or Verdict(status=NOT_SEEN))
            break
        if not word.startswith("-") or word == "-":
            if not command:
                command = word
                yield finding(f"celery {command}", verdicts.command(command))
                if command == "multi":
                    break  # what follows names workers, and their options are not told apart
            continue
        option, value = _parted(word)
        follows = bool(waiting) and not waiting[0].startswith("-")
        if value is None and follows and _has_value(option, command, verdicts):
            value = waiting.pop(0)
        if option in _FLAGS:
            continue
        if not command and option not in _GLOBAL:
            continue
        verdict = verdicts.option(command, option, value) if command else _global(option, value, verdicts)
        shown = f"{option} {value}" if option in ("-P", "--pool") and value else option
        if verdict is not None:
            yield finding(f"celery {command} {shown}".replace("  ", " "), verdict)


def _global(option: str, value: str | None, verdicts: Verdicts) -> Verdict | None:
    if option in ("-A", "--app", "-b", "--broker", "--workdir"):
        return verdicts.option("worker", option if option != "--workdir" else "-A", value)
    told = f"`emq-compat` has no option {option} before the command: a setting does it"
    return Verdict(status=DIFFERENT, reason=told)


def _has_value(option: str, command: str, verdicts: Verdicts) -> bool:
    if option in _GLOBAL:
        return True
    if option in _FLAGS or (option in _WITHOUT_VALUE and option != "-f"):
        return False
    known = verdicts.takes_value(command or "worker", option)
    return True if known is None else known


def _parted(word: str) -> tuple[str, str | None]:
    """Return an option and the value that is written with it: ``--pool=solo``, ``-Psolo``."""
    if word.startswith("--"):
        option, has, value = word.partition("=")
        return option, value if has else None
    if len(word) > 2:
        return word[:2], word[2:].removeprefix("=")
    return word, None


def _is_call(words: Sequence[str], verdicts: Verdicts) -> bool:
    """Whether the words after ``celery`` are a command line's, and not a sentence's."""
    if not words:
        return False
    return words[0] in verdicts.commands or (words[0].startswith("-") and len(words[0]) > 1)


def _words(text: str) -> list[str]:
    """Return the words of a command line up to where it ends; JSON's lists of words are read, too."""
    text = text.lstrip("\"'")
    if re.match(r"\s*,\s*[\"']", text):
        return re.findall(r"""["']([^"']*)["']""", text)
    text = re.split(r"\s(?:&&|\|\|?|;|&|>>?|2>|#)|[;`]|\$\(", text, maxsplit=1)[0]
    for quote in "\"'":
        if text.count(quote) % 2:
            text = text.rpartition(quote)[0] + text.rpartition(quote)[2]
    try:
        words = shlex.split(text)
    except ValueError:
        words = text.split()
    return [stripped for word in words if (stripped := word.strip(",]"))]


def _environment(path: Path, line: int, text: str, verdicts: Verdicts) -> Iterator[Finding]:
    for name, value in _ENVIRONMENT.findall(text):
        setting = setting_named(name, "CELERY")
        if setting is not None:
            verdict = verdicts.setting(setting, value)
            yield Finding(
                path=path, line=line, column=0, kind="setting", name=setting,
                status=verdict.status, reason=verdict.reason,
            )  # fmt: skip
