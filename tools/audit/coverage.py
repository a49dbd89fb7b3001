#!/usr/bin/env python3
"""Fails when the tests reach too little of contracts/src.

    coverage.py LCOV_FILE

Reads what `forge coverage --report lcov` wrote. Every contract must be above both thresholds, so
that one well-tested contract does not hide another; interfaces alone have nothing to reach.
"""

import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

LINES_ABOVE = 98.0
BRANCHES_ABOVE = 95.0


def read(path):
    """Hits of each line and branch, by source file."""
    lines, branches = defaultdict(list), defaultdict(list)
    source = ""
    with open(path, encoding="utf-8") as file:
        for row in file:
            kind, _, rest = row.strip().partition(":")
            if kind == "SF":
                source = rest
            elif kind == "DA":
                number, hits = rest.split(",")[:2]
                lines[source].append((int(number), int(hits)))
            elif kind == "BRDA":
                number, _, _, hits = rest.split(",")
                branches[source].append((int(number), 0 if hits == "-" else int(hits)))
    return lines, branches


def share(hits):
    """Percentage that was reached; all of nothing is all."""
    return 100.0 if not hits else 100.0 * sum(count > 0 for _, count in hits) / len(hits)


def main():
    lines, branches = read(sys.argv[1])
    sources = sorted(s for s in lines if s.startswith("contracts/src/"))
    files = (ROOT / "contracts/src").rglob("*.sol")
    wanted = {str(f.relative_to(ROOT)) for f in files if f.parent.name != "interfaces"}
    if unseen := sorted(wanted - set(sources)):
        sys.exit(f"coverage: the report lacks {', '.join(unseen)}")
    failed = False
    for source in sources:
        line_share, branch_share = share(lines[source]), share(branches[source])
        missed = sorted({n for n, hits in lines[source] + branches[source] if hits == 0})
        print(f"{source}: lines {line_share:.2f} %, branches {branch_share:.2f} %")
        if missed:
            print(f"  not reached: {', '.join(map(str, missed))}")
        failed |= line_share <= LINES_ABOVE or branch_share <= BRANCHES_ABOVE
    if failed:
        sys.exit(f"coverage: above {LINES_ABOVE} % lines and {BRANCHES_ABOVE} % branches is asked")


if __name__ == "__main__":
    main()
