# Make a context of each object that comes on stdin: arguments as base64. Tell the error, if any.

import json
import sys
from binascii import a2b_base64

from umqtt_lite.tls import context

while line := sys.stdin.readline():
    try:
        context(**{name: a2b_base64(value) for name, value in json.loads(line).items()})
        print(json.dumps(["made", ""]))
    except ValueError as e:
        print(json.dumps(["made", str(e).lower()]))
