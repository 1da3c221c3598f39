"""``make audit``: compare the pinned packages with lists of known vulnerabilities, and say what was not compared.

pip-audit ends with 0 where a list knows none of the packages, so its exit code alone does not say that there is no
vulnerability. Exit codes here: 0 all packages were compared and none has a known vulnerability, 1 some have,
3 some or all could not be compared.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys

#: Lists that pip-audit can ask, one after the other: what one does not have, the next may.
_LISTS = ("pypi", "osv")


def _asked(program: str, service: str, file: str, more: list[str]) -> tuple[list[dict[str, object]], str]:
    """What a list says of each package, or why it says nothing."""
    command = [program, "--vulnerability-service", service, "--disable-pip", "--require-hashes", "--timeout", "5"]
    command += ["--progress-spinner", "off", "--format", "json", "--requirement", file, *more]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return json.loads(done.stdout)["dependencies"], ""
    except (ValueError, KeyError):
        return [], (done.stderr.strip().splitlines() or ["it printed nothing"])[-1][:200]


def _audit(program: str, file: str, more: list[str]) -> tuple[set[str], dict[str, list[str]], set[str]]:
    """The packages of a file that were compared, the vulnerabilities by package, and the packages without an answer."""
    compared: set[str] = set()
    vulnerable: dict[str, list[str]] = {}
    unknown: set[str] = set()
    for service in _LISTS:
        found, why = _asked(program, service, file, more)
        if why:
            sys.stdout.write(f"{service}: not reached ({why})\n")
        for each in found:
            name = f"{each['name']} {each.get('version', '')}".strip()
            if "skip_reason" in each:
                unknown.add(str(each["name"]))
                continue
            compared.add(str(each["name"]))
            if each["vulns"]:
                vulnerable[name] = [str(one["id"]) for one in each["vulns"]]  # type: ignore[attr-defined]
        if found and compared >= unknown:
            break
    return compared, vulnerable, unknown - compared


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", help="pip-audit")
    parser.add_argument("files", nargs="+", help="files with pins and hashes")
    parser.add_argument("--list-may-be-missing", action="store_true", help="exit with 0 where no list can be reached")
    arguments, more = parser.parse_known_args()
    worst = 0
    for file in arguments.files:
        compared, vulnerable, unknown = _audit(arguments.program, file, more)
        for name, ids in sorted(vulnerable.items()):
            sys.stdout.write(f"{file}: {name} has known vulnerabilities: {', '.join(ids)}\n")
        if not compared:
            sys.stdout.write(
                f"{file}: NOT AUDITED. No list of known vulnerabilities that knows these packages can be reached from "
                "here. Run it where pypi.org or api.osv.dev can be reached, or name a mirror with --osv-url.\n"
            )
            worst = max(worst, 0 if arguments.list_may_be_missing else 3)
            continue
        sys.stdout.write(f"{file}: {len(compared)} packages compared, {len(vulnerable)} with known vulnerabilities.\n")
        if unknown:
            sys.stdout.write(f"{file}: not compared, since no list has them: {', '.join(sorted(unknown))}.\n")
            worst = max(worst, 3)
        if vulnerable:
            return 1
    return worst


if __name__ == "__main__":
    sys.exit(main())
