"""From a bare board to readings: python -m tools COMMAND [--help]"""

import argparse
import ast
import importlib
import importlib.util
import inspect
import os
import signal
import sys
from pathlib import Path

from firmware.config import ConfigError

from tools import targets
from tools.console import CONFIG, FAILED, USAGE, Failed

COMMANDS = (
    "build",
    "image",
    "flash",
    "deploy",
    "provision",
    "run",
    "monitor",
    "doctor",
    "fleet",
    "desk",
)


def summary(name: str) -> str:
    """The first line of a command's docstring. No module is imported for it: not every machine
    has what each of them needs (the desk needs a pty)."""
    source = Path(importlib.util.find_spec(f"tools.{name}").origin).read_bytes()
    return ast.get_docstring(ast.parse(source)).splitlines()[0]


def listing() -> str:
    lines = [f"  {name:10} {summary(name)}" for name in COMMANDS]
    return "\n".join([__doc__, "", *lines, "", "Each has a --help."])


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(listing())
        return 0 if argv else USAGE
    name = argv[0]
    if name not in COMMANDS:
        print(f"no command {name!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return USAGE
    try:
        module = importlib.import_module(f"tools.{name}")
    except ModuleNotFoundError as error:
        again = f"`make {name}`, or .venv/bin/python -m tools {name}"
        print(f"{name}: this Python has no {error.name}. Use {again}", file=sys.stderr)
        return USAGE
    parser = argparse.ArgumentParser(
        prog=f"python -m tools {name}",
        description=inspect.getdoc(module),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.arguments(parser)
    args = parser.parse_args(argv[1:])
    try:
        if getattr(args, "board", "") is None:
            raise Failed(f"name the board with --board: {', '.join(targets.names())}", USAGE)
        return module.run(args)
    except ConfigError as error:
        code, text = CONFIG, str(error)
    except Failed as error:
        code, text = error.code, str(error)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:  # whoever reads us has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:  # of this machine: a folder that cannot be written, a full disk
        code, text = FAILED, ": ".join(map(str, filter(None, (error.filename, error.strerror))))
    sys.stdout.flush()
    print(f"{name}: {text}", file=sys.stderr)
    return code


def interrupted_when_ended() -> None:
    """What ends a process otherwise is a Ctrl-C: no secret is left behind, and a board goes on."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number and signal.getsignal(number) != signal.SIG_IGN:  # by nohup
            signal.signal(number, signal.default_int_handler)


if __name__ == "__main__":
    interrupted_when_ended()
    sys.exit(main(sys.argv[1:]))
