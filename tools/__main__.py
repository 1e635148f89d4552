"""From a bare board to readings: python -m tools COMMAND [--help]"""

import argparse
import importlib
import inspect
import signal
import sys

from firmware.config import ConfigError

from tools.console import CONFIG, USAGE, Failed

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


def command(name: str):
    """The module of a command: only the one that is called is imported."""
    return importlib.import_module(f"tools.{name}")


def listing() -> str:
    lines = [f"  {name:10} {inspect.getdoc(command(name)).splitlines()[0]}" for name in COMMANDS]
    return "\n".join([__doc__, "", *lines, "", "Each has a --help."])


def main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(listing())
        return 0 if argv else USAGE
    name = argv[0]
    if name not in COMMANDS:
        print(f"no command {name!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return USAGE
    module = command(name)
    parser = argparse.ArgumentParser(
        prog=f"python -m tools {name}",
        description=inspect.getdoc(module),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.arguments(parser)
    args = parser.parse_args(argv[1:])
    try:
        return module.run(args)
    except ConfigError as error:
        code, text = CONFIG, str(error)
    except Failed as error:
        code, text = error.code, str(error)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    sys.stdout.flush()
    print(f"{name}: {text}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
