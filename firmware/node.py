"""The program: check the configuration, put the parts together, run until Ctrl-C."""

import gc
import sys

import board
import crash
from app import App

FOLDER = board.CONFIG[: board.CONFIG.rfind("/") + 1]


def build(settings: dict) -> App:
    """The application with all parts that are configured, and only those imported."""
    safe = crash.safe()
    sleep = None if safe else settings["sleep"]
    more = {}
    tls = settings["tls"]
    if tls:
        from umqtt_lite.tls import context

        pem = []
        for key in ("ca", "cert", "key"):
            name = tls[key]
            if name:
                with open(FOLDER + name, "rb") as file:
                    name = file.read()
            pem.append(name or None)
        more["ssl"] = context(pem[0], pem[1], pem[2], verify=tls["verify"])
        del pem
    if safe:
        print("safe mode after", crash.boots(), "crashes in a row")
        settings["sensors"] = []
        settings["sleep"] = settings["discovery"] = False
        settings["spool"] = 0
    link = clock = cycle = None
    if settings["networks"]:
        from link import Link

        def on_change(up):
            app.client.link = up

        link = Link(board, settings, on_change)
    if sleep or settings["ntp"]:
        from clock import Clock

        clock = Clock(board, settings["ntp"])
    if sleep:
        from power import Cycle

        woke = board.reset_cause() == "deepsleep" and not crash.boots()
        cycle = Cycle(settings, board, clock, woke, board.SINCE)
        cycle.on_sleep = crash.well
        if woke:
            settings["diagnostics"] = 0
        if not settings["spool"]:
            from umqtt_lite.sleep import MQTTClient

            more["client"] = MQTTClient
            more["snapshot"] = cycle.snapshot
        for options in settings["sensors"]:
            options["interval"] = sleep["seconds"]
    app = App(settings, board, **more)
    if link:
        app.client.link = link.up
        app.station = link.wifi
        app.parts.append(link)
    if clock:
        clock.link = link or app.client
        app.parts.append(clock)
    if settings["spool"]:
        from umqtt_lite.spool import Spool

        app.spool = Spool(app.client, FOLDER + "spool", settings["spool"], 1024)
    if settings["sensors"]:
        from reading import Reading

        publish = cycle.reading if cycle else app.reading
        for options in settings["sensors"]:
            app.sensors.append(Reading(board, options, publish, app.error))
    if cycle:
        app.power = cycle
        app.parts.append(cycle)
        cycle.attach(app)
    app.crash = crash
    return app


def main() -> int:
    """Run until Ctrl-C. Returns the exit code: 0, or 2 for a mistake in the configuration."""
    import config
    import remote

    app = None

    def restart():
        if app:
            app.close()
        board.reset()

    changed = remote.boot_check(board.CONFIG, restart)
    try:
        settings = config.load(board.CONFIG, board.getenv, board.NAME)
    except config.ConfigError as error:
        print("ConfigError:", error)
        if remote.rollback():
            board.reset()
        return 2
    for name in ("config", "remote"):  # their memory is free for others
        sys.modules.pop(name)
    del config
    gc.collect()
    app = build(settings)
    if changed == "trial":
        app.remote = remote
        app.parts.append(remote)
    elif changed:
        app.put("response", '{"command": "set", "ok": false, "error": "RolledBack"}')
    del remote
    try:
        app.run()
    except KeyboardInterrupt:
        pass
    finally:  # also on the way out of a crash
        app.close()
    return 0


board.halt(crash.guard(main, board, FOLDER + "crash.json"))
