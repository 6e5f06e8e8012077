"""What scripts/check-chart and scripts/check-deploy have in common: the program's settings, read from its source."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
SOURCES = ["src/cli.rs", "shared/src/config.rs", "gateway/src/config.rs", "worker/src/config.rs"]

ARGUMENT = re.compile(
    r"(?P<words>(?:[ \t]*///[^\n]*\n)+)[ \t]*#\[arg\((?P<arg>(?:[^()]|\([^()]*(?:\([^()]*\)[^()]*)*\))*)\)\]\s*pub \w+: (?P<type>[^\n]+),\n"
)
# Not settings of the program: what its libraries read where FILES_URL names a bucket, and Rust's own.
LIBRARIES = re.compile(r"^(AWS_|GOOGLE_)[A-Z0-9_]+$|^RUST_BACKTRACE$")


def settings():
    """{variable: {"words", "type", "minimum", "maximum"}} of every setting that has a variable."""
    found = {}
    for source in SOURCES:
        text = (REPOSITORY / source).read_text()
        for match in ARGUMENT.finditer(text):
            name = re.search(r'env = "(\w+)"', match["arg"])
            if not name:
                continue
            bounds = re.search(r"range\(([\d_]*)\.\.=?([\d_]*)\)", match["arg"])
            low, high = (bounds[1], bounds[2]) if bounds else ("", "")
            found[name[1]] = {
                "words": " ".join(line.strip().removeprefix("///").strip() for line in match["words"].splitlines()),
                "type": match["type"],
                "minimum": int(low.replace("_", "")) if low else None,
                "maximum": int(high.replace("_", "")) if high else None,
            }
        declared = len(re.findall(r'\benv = "', text))
        here = sum(f'env = "{name}"' in text for name in found)
        if declared != here:
            raise SystemExit(f"shipping: {source} declares {declared} variables and {here} were understood: mend ARGUMENT")
    return found


class Report:
    """Counts what was looked at, and tells what is wrong as it is found."""

    def __init__(self, name):
        self.name, self.looked, self.wrong = name, 0, 0

    def check(self, good, message):
        self.looked += 1
        if not good:
            self.wrong += 1
            print(f"{self.name}: {message}", flush=True)
        return good

    def end(self):
        print(f"{self.name}: {self.looked} checks, {self.wrong} failed", flush=True)
        return 1 if self.wrong else 0
