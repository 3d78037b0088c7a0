"""What dev/check_chart.py and dev/check_compose.py count: things that must hold, and those that do not."""

import sys

failures = []
checks = 0


def check(holds, what):
    """Notes one; what does not hold is printed."""
    global checks
    checks += 1
    if not holds:
        failures.append(what)
        print(f"not so: {what}", file=sys.stderr)


def result():
    """Prints how many held; the exit code."""
    print(f"{checks - len(failures)} passed, {len(failures)} failed")
    return 1 if failures else 0
