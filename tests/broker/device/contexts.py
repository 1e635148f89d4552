# Make a context of each object that comes on stdin: arguments as base64. Tell the error, if any.

import json
import sys
from binascii import a2b_base64

from umqtt_lite.tls import context

while line := sys.stdin.readline():
    try:
        context(**{k: v and a2b_base64(v) for k, v in json.loads(line).items()})
        print(json.dumps(["made", ""]))
    except ValueError as e:
        print(json.dumps(["made", str(e).lower()]))
