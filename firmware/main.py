"""The entry on every board: check the configuration, run the application until interrupted."""

import board
import config
from app import App


def main() -> int:
    """Run until Ctrl-C. Returns the exit code: 0, or 2 for a mistake in the configuration."""
    try:
        settings = config.load(board.CONFIG, board.getenv)
    except config.ConfigError as error:
        print("ConfigError:", error)
        return 2
    app = App(settings, board.Environment())
    try:
        app.run()
    except KeyboardInterrupt:
        pass
    finally:  # also on the way out of a crash
        app.close()
    return 0


board.halt(main())
