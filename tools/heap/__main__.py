"""The live heap of the whole firmware on a 32-bit port: MicroPython for WebAssembly, in node.

python -m tools.heap

boards/esp32, the firmware and the library run as .mpy on modules that stand for the port's own,
simulated chips among them; what these take is not counted. There are three sensors, Wi-Fi,
discovery, a watchdog and a broker that accepts all.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from tools.build import compile_mpy, modules
from tools.console import ROOT, Failed
from tools.targets import find

BUILD = ROOT / "build/heap"
PORT = "@micropython/micropython-webassembly-pyscript@1.27.0"
SENSORS = ["adc", "bme280", "ds18b20"]
DESK = ("simulated", "onewire", "ds18x20", "dht")  # of boards/unix


def build(device: Path) -> None:
    """Compile all that a device would load to `device`."""
    shutil.rmtree(device, ignore_errors=True)
    for folder, source in modules(find("esp32"), SENSORS).values():
        compile_mpy(source, folder, device)
    desk = ROOT / "boards/unix"
    for name in DESK:
        compile_mpy(desk / f"{name}.py", desk, device)


def main() -> int:
    try:
        for tool in ("node", "npm"):
            if not shutil.which(tool):
                raise Failed(f"no {tool}: it runs MicroPython's 32-bit port; install Node.js")
        build(BUILD / "device")
        if not (BUILD / "node_modules").exists():
            call = ["npm", "install", "--prefix", str(BUILD), "--no-audit", "--no-fund", PORT]
            subprocess.run(call, check=True, stdout=subprocess.DEVNULL)
        here = Path(__file__).parent
        for name in ("run.mjs", "port.py"):
            shutil.copy(here / name, BUILD)
        done = subprocess.run(["node", "run.mjs"], cwd=BUILD, capture_output=True, text=True)
        if done.returncode:
            raise Failed(done.stdout + done.stderr[done.stderr.rfind("PythonError") :])
    except (Failed, subprocess.CalledProcessError) as error:
        print(error, file=sys.stderr)
        return 1
    print(done.stdout, end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
