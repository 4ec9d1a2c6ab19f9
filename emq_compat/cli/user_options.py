"""Options that an app adds to commands: ``app.user_options["worker"].add(click.Option(…))``.

Those under ``preload`` are taken by every command, and told by the signal user_preload_options before it
runs; a command whose function has an argument of that name gets it, too. Those under a command's name become
arguments of it: the worker's are given to the steps that the app adds.
"""

from __future__ import annotations

import copy
import inspect
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import click

from emq_compat.errors import ConfigurationError

__all__ = ["with_user_options"]

_APP = ("-A", "--app")


def with_user_options(
    command: click.Command, name: str, app_name: str | None, words: Sequence[str]
) -> click.Command:
    """Return the command with the options that the app adds to it; itself where there are none.

    Args:
        command: the subcommand, ``name``.
        app_name: what ``-A`` before the subcommand says.
        words: what stands behind the subcommand's name: ``-A`` may stand there.
    """
    app = _app_of(app_name or _app_in(words, command))
    if app is None:
        return command
    own = tuple(app.user_options.get(name, ())) if "user_options" in vars(app) else ()
    preload = tuple(app.user_options.get("preload", ()))
    if not own and not preload:
        return command
    extended = copy.copy(command)
    extended.params = [*command.params, *own, *preload]
    if preload and command.callback is not None:
        extended.callback = _told(command.callback, app, [str(option.name) for option in preload])
    return extended


def _app_in(words: Sequence[str], command: click.Command) -> str | None:
    if not any("--app" in parameter.opts for parameter in command.params):
        return None
    found = list(_said(words))
    return found[-1] if found else None


def _said(words: Sequence[str]) -> Iterator[str]:
    for word, following in itertools.zip_longest(words, words[1:], fillvalue=""):
        if word == "--":
            return
        if word in _APP:
            yield following
        elif word.startswith("--app="):
            yield word.partition("=")[2]
        elif word.startswith("-A") and not word.startswith("--"):
            yield word[2:]


def _app_of(name: str | None) -> Any:
    """Return the app; None where there is none, of which the command itself will tell."""
    from emq_compat.shim.current import given_app  # noqa: PLC0415 - the list of commands needs no app

    if not name and given_app.get() is None:
        return None
    from emq_compat.shim.find_app import find_app  # noqa: PLC0415 - likewise

    try:
        return find_app(name or "")
    except ConfigurationError:
        return None


def _told(callback: Callable[..., Any], app: Any, names: Sequence[str]) -> Callable[..., Any]:
    """Return the command's function, which first tells of the preload options."""
    parameters = inspect.signature(callback).parameters.values()
    takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    takes = {parameter.name for parameter in parameters}

    def run(*args: Any, **kwargs: Any) -> Any:
        options = {name: kwargs[name] for name in names if name in kwargs}
        _preload_signal(app).send(sender=callback, app=app, options=options)
        passed = {
            name: value for name, value in kwargs.items() if name not in options or takes_all or name in takes
        }
        return callback(*args, **passed)

    return run


def _preload_signal(app: Any) -> Any:
    """Return user_preload_options, of the package that the app is of."""
    from emq_compat.shim.find_app import is_genuine  # noqa: PLC0415 - few apps have them

    if is_genuine(app):
        return sys.modules["celery.signals"].user_preload_options  # a genuine app has loaded it
    from emq_compat.shim.signals import user_preload_options  # noqa: PLC0415 - few apps have them

    return user_preload_options
