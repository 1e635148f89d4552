# Bytes in use at the start, with config.py, and with the settings of a config.json alone.

import gc
import json
import sys


def used():
    gc.collect()
    return gc.mem_alloc()


found = [0, 0, 0]
found[0] = used()
import config  # noqa: E402 (counted)

found[1] = used()
settings = config.load(sys.argv[1])
del config
sys.modules.pop("config")
found[2] = used()
print(json.dumps(found))
