"""Measure umqtt_lite, polled and in asyncio, beside a bare socket and umqtt.simple, in one run.

python -m tools.bench [deploy] [--peers FOLDER] [--micropython PATH]

And the spool on flash, and what `deploy` takes beside a copy of all; with "deploy", only that.
"""

import argparse
import re
import shutil
import statistics
import subprocess
import sys
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path

from tools.bench import deploy, measure
from tools.console import Failed
from tools.programs import find_micropython, start_broker
from tools.size import core_size

TITLES = {
    "lite": "umqtt_lite",
    "aio": "with asyncio",
    "simple": "umqtt.simple",
    "bare": "bare socket",
}
ROUNDS = 5
ROUND = 400  # ms
DEPLOYS = 3  # rounds
NONE = "–"


def start(on_exit: ExitStack) -> tuple[int, str]:
    """A broker's port and its name."""
    mosquitto = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
    if not mosquitto:
        return start_broker(on_exit)[1], f"iotcore {version('iotcore')}"
    port = start_broker(on_exit, lambda _, port: [mosquitto, "-p", str(port)])[1]
    found = subprocess.run([mosquitto, "-h"], capture_output=True, text=True).stdout
    return port, " ".join(re.search(r"(mosquitto) version (\S+)", found).groups()).capitalize()


def describe(micropython: str) -> str:
    code = "import sys; print('MicroPython %d.%d.%d' % sys.implementation.version[:3])"
    return subprocess.run([micropython, "-c", code], capture_output=True, text=True).stdout.strip()


class Table:
    """Rows of a Markdown table, one column for each client."""

    def __init__(self, clients: list[str], titles: dict = TITLES):
        self.clients = clients
        self.rows = [["", *(titles[client] for client in clients)]]

    def add(self, title: str, cells: dict) -> None:
        self.rows.append([title, *(cells.get(client, NONE) for client in self.clients)])

    def __str__(self) -> str:
        widths = [max(map(len, column)) for column in zip(*self.rows, strict=True)]
        rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
        rows = [self.rows[0], rule, *self.rows[1:]]
        return "\n".join(
            "| "
            + " | ".join(
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            )
            + " |"
            for row in rows
        )


def number(value: float) -> str:
    return f"{value:,.0f}"


def memory(table: Table, bench: measure.Bench, clients: list[str]) -> None:
    table.add("live heap when connected, bytes", {c: number(bench.live_heap(c)) for c in clients})
    heaps = {c: number(bench.smallest_heap(c)) for c in clients if c != "aio"}
    table.add("smallest heap, KiB", heaps)
    found = {client: bench.allocations(client) for client in clients}
    for key, title in (("publish", "published"), ("receive", "received")):
        for qos in range(3):
            table.add(
                f"allocated per message {title} at QoS {qos}, bytes",
                {c: number(found[c][key][qos]) for c in clients if qos < len(found[c][key])},
            )
    idle = {c: number(found[c]["idle"]) for c in clients if "idle" in found[c]}
    table.add("allocated per idle poll, bytes", idle)


def instructions(table: Table, bench: measure.Bench, clients: list[str]) -> None:
    for how, title, columns in (
        ("send", "instructions per QoS 0 publish", [*clients, "bare"]),
        ("send_other", "... of another length than the last", ["lite"]),
        ("idle", "instructions per idle poll", clients),
    ):
        table.add(title, {c: number(bench.instructions(c, how)) for c in columns})


def rates(table: Table, bench: measure.Bench, clients: list[str]) -> None:
    """The clients take turns; the ratio is to the bare socket in the same turn."""
    for how, title, columns in (
        ("send", "QoS 0, messages/s", clients),
        ("one", "QoS 1 one at a time, messages/s", clients),
        ("many", "QoS 1 pipelined, messages/s", ["lite"]),
        ("receive", "QoS 0 received, messages/s", clients),
    ):
        rounds = [
            {client: bench.rate(client, how, ROUND) for client in [*columns, "bare"]}
            for _ in range(ROUNDS)
        ]
        cells = {}
        for client in [*columns, "bare"]:
            rate = statistics.median(found[client] for found in rounds)
            ratio = statistics.median(found[client] / found["bare"] for found in rounds)
            cells[client] = number(rate) if client == "bare" else f"{number(rate)} ({ratio:.2f})"
        table.add(title, cells)
        if how == "one":
            ratio = statistics.median(found["aio"] / found["lite"] for found in rounds)
            table.add("... as a part of the polled client's", {"aio": f"{ratio:.2f}"})


def flash(micropython: str) -> Table:
    """What the spool does to littlefs, and that to its blocks."""
    found = measure.flash(micropython)
    columns = {"store": "stored", "drain": "delivered"}
    table = Table(list(columns), columns)
    for i, title in enumerate(("bytes programmed", "blocks erased")):
        table.add(f"{title} per 1,000 readings", {c: number(found[c][i]) for c in columns})
    table.add("bytes handed over per byte", {"store": f"{found['handed']:.3f}"})
    return table


def deploys(micropython: str) -> Table:
    """The program's way onto the desk board; each ratio is to the copy in the same round."""
    rounds = deploy.measure(DEPLOYS, micropython)
    columns = {"seconds": "seconds", "ratio": "times as fast", "bytes": "bytes sent"}
    table = Table(list(columns), columns)
    for how in rounds[0]:
        ratio = statistics.median(found[deploy.COPY][0] / found[how][0] for found in rounds)
        cells = {
            "seconds": f"{statistics.median(found[how][0] for found in rounds):.2f}",
            "ratio": f"{ratio:.1f}",
            "bytes": number(rounds[-1][how][1]),
        }
        table.add(how, cells)
    return table


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.bench", description=__doc__)
    parser.add_argument("part", nargs="?", choices=["deploy"], help="measure only that")
    parser.add_argument("--peers", type=Path, help="a folder that holds umqtt/simple.py")
    parser.add_argument("--micropython", help="the unix port (default: the one beside Python)")
    args = parser.parse_args()
    polled = ["lite", "simple"] if args.peers else ["lite"]
    clients = ["lite", "aio", *polled[1:]]
    table = Table([*clients, "bare"])
    try:
        with ExitStack() as on_exit:
            micropython = find_micropython(args.micropython)
            if args.part:
                print(f"{describe(micropython)}\n\n{deploys(micropython)}")
                return 0
            sizes = measure.build()
            size = {"lite": number(core_size(sizes))}
            size["aio"] = number(core_size(sizes) + sizes["aio"])
            if args.peers:
                size["simple"] = number(measure.build_simple(args.peers.absolute()))
            table.add("core as .mpy, bytes", size)
            port, broker = start(on_exit)
            bench = measure.Bench(micropython, port)
            memory(table, bench, clients)
            if measure.has_valgrind():
                instructions(table, bench, polled)
            rates(table, bench, clients)
            spool = flash(micropython)
            deployed = deploys(micropython)
    except Failed as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{describe(micropython)}; {broker}\n\n{table}\n\nThe flash spool:\n\n{spool}")
    print(f"\nThe program onto the desk board:\n\n{deployed}")
    if not measure.has_valgrind():
        print("\nInstructions are counted with valgrind: sudo apt-get install valgrind")
    return 0


if __name__ == "__main__":
    sys.exit(main())
