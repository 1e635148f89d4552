# What config.load says of each case in a file, a line with [folder, board] each.

import json
import sys

import config

for line in open(sys.argv[1]):
    folder, board = json.loads(line)
    try:
        settings = config.load(folder + "/config.json", None, board)
        settings.pop("source")
        print(json.dumps(settings))
    except config.ConfigError as error:
        print(json.dumps(str(error).replace(folder + "/", "")))
