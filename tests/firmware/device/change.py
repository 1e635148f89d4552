# Make changes of the config.json in a folder: change.py FOLDER, then a patch a line on stdin.
# Prints what is said of each; one that is right is carried out and confirmed.

import json
import sys

import config
import remote

path = sys.argv[1] + "/config.json"
for line in sys.stdin:
    try:
        remote.propose(json.loads(line), config.load(path))
        remote.begin(path)
        remote.confirm()
        print('""')
    except config.ConfigError as error:
        print(json.dumps(str(error)))
