# What config.load says of each case in a file, [[folder, board], ...], under both runtimes.

import json
import sys

import config

with open(sys.argv[1]) as file:
    cases = json.load(file)
for folder, board in cases:
    try:
        settings = config.load(folder + "/config.json", None, board)
        settings.pop("source")
        print(json.dumps(settings))
    except config.ConfigError as error:
        print(json.dumps(str(error).replace(folder + "/", "")))
