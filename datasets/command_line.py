"""Command lines: every option also read from the environment, every refusal one line and exit status 2.

Takes an argparse parser's declarations; gives parsed arguments, and runs a command's main function.
"""

import argparse
import errno
import logging
import os
import shlex
import signal
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from datasets.errors import BadInput, may_pass
from datasets.redaction import RedactedFormatter, print_redacted, redacted
from datasets.storage import without_secrets

ENVIRONMENT_PREFIX = "EEG2FMRI_"
EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
_TRUE, _FALSE = ("1", "true", "yes", "on"), ("0", "false", "no", "off")
_END_OF_LIST = "--end-of-list"  # hidden: without it a list from the environment would swallow the first argument


class CommandParser(argparse.ArgumentParser):
    """An argument parser whose every ``--option`` is also read from ``EEG2FMRI_<OPTION>``.

    The command line wins over the environment, the environment over the default.  ``--help`` shows both.
    """

    def __init__(self, *, prog: str, description: str) -> None:
        super().__init__(
            prog=prog,
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self._group: argparse._ActionsContainer = self
        self.add_argument(_END_OF_LIST, action="store_true", dest=argparse.SUPPRESS, help=argparse.SUPPRESS)

    def add_option(self, name: str, **settings: Any) -> None:  # noqa: ANN401 - handed on to argparse as it is
        """Add ``--name``; its help gets the default and the environment variable that sets it."""
        default = settings.get("default")
        shown = "" if default is None or default is False else f"default {default}; "
        settings["help"] = f"{settings['help']} [{shown}{environment_variable(name)}]".replace("%", "%%")
        self._group.add_argument(name, **settings)

    def group(self, title: str) -> Callable[..., None]:
        """Begin a group of options, which ``--help`` shows under its title; return ``add_option``."""
        self._group = self.add_argument_group(title)
        return self.add_option

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> argparse.Namespace:  # type: ignore[override] # noqa: ANN401
        """Parse the arguments, options that are set in the environment standing before those of the command line."""
        given = list(sys.argv[1:] if args is None else args)
        arguments: argparse.Namespace = super().parse_args([*self._from_environment(), *given], namespace)
        vars(arguments).pop(argparse.SUPPRESS, None)  # what the end of a list left
        return arguments

    def spelled_out(self, arguments: argparse.Namespace) -> str:
        """Return the command that gives these arguments, wherever they came from; credentials are left out."""
        words = ["python", *self.prog.split()[1:]]
        for action in self._actions:
            value = getattr(arguments, action.dest, action.default)
            if value == action.default and action.option_strings:
                continue
            many = value if isinstance(value, list) else [value]
            given = [] if action.nargs == 0 else [without_secrets(str(each)) for each in many if each is not None]
            words += [*action.option_strings[-1:], *given]
        return shlex.join(words)

    def error(self, message: str) -> NoReturn:
        """Refuse in one line; where an option's value may come from the environment, name the variable."""
        sources = [variable for _, name, variable in self._set_in_environment() if f"argument {name}:" in message]
        origin = f" ({sources[0]} is set in the environment)" if sources else ""
        self.exit(EXIT_BAD_INPUT, redacted(f"error: {' '.join(message.split())}{origin}; see {self.prog} --help\n"))

    def _set_in_environment(self) -> list[tuple[argparse.Action, str, str]]:
        """Return each option set in the environment, its name and its variable; an empty variable counts as not set."""
        names = [(action, action.option_strings[-1]) for action in self._actions if action.option_strings]
        options = [(action, name, environment_variable(name)) for action, name in names if name != "--help"]
        return [option for option in options if os.environ.get(option[2])]

    def _from_environment(self) -> list[str]:
        return [word for option in self._set_in_environment() for word in self._words(*option, os.environ[option[2]])]

    def _words(self, action: argparse.Action, name: str, variable: str, value: str) -> list[str]:
        if action.nargs == 0:
            if value.lower() not in (*_TRUE, *_FALSE):
                self.error(f"{variable} must be one of 1, 0, true or false, but is {value!r}")
            return [name] if value.lower() in _TRUE else []
        if action.nargs in ("*", "+"):
            return [name, *value.replace(",", " ").split(), _END_OF_LIST]
        return [f"{name}={value}"]


def environment_variable(option: str) -> str:
    """Return the environment variable of an option: ``--study-storage`` is ``EEG2FMRI_STUDY_STORAGE``."""
    return ENVIRONMENT_PREFIX + option.lstrip("-").replace("-", "_").upper()


def positive_integer(text: str) -> int:
    """Parse an integer of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be an integer of at least 1, but got {text}")
    return number


def positive_number(text: str) -> float:
    """Parse a number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, but got {text}")
    return number


def natural_number(text: str) -> int:
    """Parse an integer of at least 0."""
    return 0 if int(text) == 0 else positive_integer(text)


def number_or_zero(text: str) -> float:
    """Parse a number of at least 0."""
    return 0.0 if float(text) == 0 else positive_number(text)


def run_command(main: Callable[[], int | None]) -> int:
    """Run a command and return its exit status: what it returns (None is 0), 2 after bad input, 130 after Ctrl-C.

    Bad input gets one line and no traceback.  Whatever is logged or ends the command is shown without credentials.
    SIGTERM ends the command as Ctrl-C does: a stopped Ray job or a pre-empted machine leaves as tidily.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(RedactedFormatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    sys.excepthook = print_redacted
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return main() or 0
    except BadInput as refusal:
        return _refuse(str(refusal))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return _refuse(f"the disk is full: {error}; free some space and run the same command again")
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            return _refuse(f"not permitted: {error}; choose a folder that you may write to")
        if error.errno in (errno.EEXIST, errno.ENOTDIR, errno.EISDIR):
            return _refuse(f"a file stands where a folder should be, or the other way round: {error}")
        if may_pass(error):
            return _refuse(f"a disk or the network failed: {error}; once it is back run the same command again")
        raise
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        return EXIT_INTERRUPTED


def _refuse(message: str) -> int:
    print(redacted(f"error: {' '.join(message.split())}"), file=sys.stderr)
    return EXIT_BAD_INPUT
