"""Run the firmware from the working tree; on this desk where no board is named.

On the desk: against a broker of its own, with simulated sensors, until Ctrl-C.
"""

from tools.console import add_board, add_config, add_port
from tools.demo import FOREVER, demo


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < FOREVER:
        raise ValueError
    return value


def arguments(parser) -> None:
    add_board(parser, "unix")
    add_port(parser)
    add_config(parser)
    parser.add_argument("--seconds", type=seconds, help="end after this time (default: Ctrl-C)")
    desk = parser.add_argument_group("on the desk, without --port")
    desk.add_argument("--broker", help="host:port of a broker (default: one for this run)")
    desk.add_argument("--micropython", help="the unix port (default: the one beside Python)")


def run(args) -> int:
    return demo(args)
