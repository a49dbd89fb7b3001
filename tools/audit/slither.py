#!/usr/bin/env python3
"""Runs slither over contracts/src and holds what it finds against tools/audit/slither.json.

A finding that is not in the list fails the run, and so does an entry that finds nothing any more:
every finding has a reason, and every reason a finding. `where` is "Contract.function", or "*" for
all findings of a check.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUT = "target/slither-out"


def run():
    """Compiles with forge, which leaves the build-info that slither reads, and runs it."""
    build = ["node_modules/.bin/forge", "build", "contracts/src", "--build-info", "--force"]
    build += ["--out", OUT, "--cache-path", "target/slither-cache"]
    subprocess.run(["rm", "-rf", OUT], cwd=ROOT, check=True)
    subprocess.run(build, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    slither = Path(sys.executable).parent / "slither"
    command = [slither, ".", "--foundry-ignore-compile", "--foundry-out-directory", OUT]
    command += ["--filter-paths", "node_modules", "--json", "-"]
    # It asks forge for its configuration.
    path = f"{ROOT / 'node_modules/.bin'}{os.pathsep}{os.environ['PATH']}"
    answer = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path}
    )
    try:
        report = json.loads(answer.stdout)
    except json.JSONDecodeError:
        sys.exit(f"slither: no report\n{answer.stdout}{answer.stderr}")
    if not report["success"]:
        sys.exit(f"slither: {report['error']}")
    return report["results"].get("detectors", [])


def place(finding):
    """"Contract.function" of what the finding is about."""
    element = finding["elements"][0]
    parent = element.get("type_specific_fields", {}).get("parent", {})
    if parent.get("type") == "function":
        element, parent = parent, parent["type_specific_fields"]["parent"]
    return f"{parent['name']}.{element['name']}" if parent.get("name") else element["name"]


def main():
    accepted = json.loads((ROOT / "tools/audit/slither.json").read_text(encoding="utf-8"))
    findings = run()
    used = set()
    unexplained = []
    for finding in findings:
        match = [
            index
            for index, entry in enumerate(accepted)
            if entry["check"] == finding["check"] and entry["where"] in ("*", place(finding))
        ]
        used.update(match)
        if not match:
            unexplained.append(finding)
    for finding in unexplained:
        print(f"{finding['check']} ({finding['impact']}) at {place(finding)}")
        print(finding["description"])
    stale = [entry for index, entry in enumerate(accepted) if index not in used]
    for entry in stale:
        print(f"tools/audit/slither.json: {entry['check']} at {entry['where']} is found no more")
    print(f"slither: {len(findings)} findings, {len(unexplained)} without a reason")
    if unexplained or stale:
        sys.exit(1)


if __name__ == "__main__":
    main()
