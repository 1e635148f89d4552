"""The entry on every board: check the configuration, put the parts together, run until Ctrl-C."""

import gc
import sys

import board
from app import App


def build(settings: dict) -> App:
    """The application with all parts that are configured, and only those imported."""
    folder = board.CONFIG[: board.CONFIG.rfind("/") + 1]
    more = {}
    tls = settings["tls"]
    if tls:
        from umqtt_lite.tls import context

        pem = []
        for key in ("ca", "cert", "key"):
            name = tls.get(key)
            if name:
                with open(folder + name, "rb") as file:
                    name = file.read()
            pem.append(name or None)
        more["ssl"] = context(pem[0], pem[1], pem[2], verify=tls["verify"])
    app = App(settings, board, **more)
    if settings["networks"]:
        from link import Link

        def on_change(up):
            app.client.link = up

        on_change(False)
        link = Link(board, settings, on_change)
        app.station = link.wifi
        app.parts.append(link)
    if settings["spool"]:
        from umqtt_lite.spool import Spool

        app.spool = Spool(app.client, folder + "spool", settings["spool"], 1024)
    if settings["sensors"]:
        from reading import Reading

        for options in settings["sensors"]:
            app.sensors.append(Reading(board, options, app.reading, app.error))
    return app


def main() -> int:
    """Run until Ctrl-C. Returns the exit code: 0, or 2 for a mistake in the configuration."""
    import config
    import remote

    changed = remote.boot_check(board.CONFIG, board.reset)
    try:
        settings = config.load(board.CONFIG, board.getenv, board.NAME)
    except config.ConfigError as error:
        print("ConfigError:", error)
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


board.halt(main())
