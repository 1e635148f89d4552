# Run the tests of one file as they are asked for by name on stdin, under either runtime.
# Each answer is what the test printed and one line that begins with MARK.

import gc
import sys

MARK = "\x1e"


def report(error):
    if hasattr(sys, "print_exception"):
        sys.print_exception(error)
    else:
        import traceback

        traceback.print_exception(error, file=sys.stdout)


def run(module, name):
    try:
        getattr(__import__(module), name)()
    except Exception as error:
        report(error)
        return "failed"
    return "passed"


def main():
    while line := sys.stdin.readline():
        result = run(sys.argv[1], line.strip())
        gc.collect()
        print(MARK + result)


main()
