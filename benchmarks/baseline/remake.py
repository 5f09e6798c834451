"""The committed baseline made anew for the trackers that are named; what is there of others stays as it is.

python benchmarks/baseline/remake.py tiny
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SHARED = HERE.parents[2] / "shared"
DATASETS = {"otb": ("otb", "otb"), "got10k": ("got10k-train", "got10k")}
"""File -> what it is of: name of the dataset, folder in the development data"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("tracker", nargs="+", help="shipped models and opencv:NAME")
    parser.add_argument("--data", type=Path, default=SHARED / "data", help="development data")
    parser.add_argument("--peers", type=Path, default=SHARED / "peers", help="model files of opencv:NAME")
    args = parser.parse_args()
    for name, (dataset, folder) in DATASETS.items():
        trackers = [one for one in args.tracker if is_peer(one) or name != "got10k"]  # ours have seen got10k
        if trackers:
            made = evaluate(trackers, dataset, args.data / folder, args.peers)
            replace(HERE / f"{name}.json", made)


def is_peer(tracker: str) -> bool:
    return tracker.startswith("opencv:")


def evaluate(trackers: list[str], dataset: str, root: Path, peers: Path) -> dict[str, Any]:
    """The `scores.json` of a run of all of them."""
    with tempfile.TemporaryDirectory() as output:
        command = [sys.executable, "-m", "mixformerv2", "evaluate", "--dataset", dataset, "--root", str(root)]
        command += ["--peers", str(peers), "--output", output, "--no-html"]
        for tracker in trackers:
            command += ["--tracker", tracker]
            if not is_peer(tracker):  # every processor has it
                command += ["--option", f"{tracker}:precision=f32"]
        code = subprocess.run(command, check=False).returncode
        if code:
            sys.exit(code)
        return json.loads((Path(output) / "scores.json").read_text("utf-8"))


def replace(path: Path, made: dict[str, Any]) -> None:
    there = json.loads(path.read_text("utf-8"))
    runs = {run["label"]: run for run in [*there["runs"], *made["runs"]]}
    baseline = {
        "runs": [runs[label] for label in sorted(runs)],
        "thresholds": {**there["thresholds"], **made["thresholds"]},
    }
    path.write_text(json.dumps(baseline, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
