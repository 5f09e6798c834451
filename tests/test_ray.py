"""A run over a small cluster of Ray on this machine: two nodes, of which one is lost in the middle."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_execute import assert_ended, assert_same_boxes, passes, run
from trackers import LEVELS, notes, write_otb

from mixformerv2.evaluate.datasets import Opened, open_for_evaluation
from mixformerv2.evaluate.execute import Progress

ray = pytest.importorskip("ray", reason="Ray has no build for this platform or Python")

NAMES = "abcdefgh"
LENGTH = 12
MEMORY = 80_000_000


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Opened:
    return open_for_evaluation(
        "otb", write_otb(tmp_path_factory.mktemp("data"), dict.fromkeys(NAMES, LENGTH))
    )


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head, and a second node with a core each; what Ray says of itself is none of ours."""
    from ray.cluster_utils import Cluster

    quickly = {
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 500,
        "health_check_failure_threshold": 6,
    }
    quiet = {
        "num_cpus": 1,
        "include_dashboard": False,
        "object_store_memory": MEMORY,
        "_system_config": quickly,  # notices a lost node
    }
    nodes = Cluster(initialize_head=True, head_node_args=quiet, shutdown_at_exit=False)
    yield nodes
    nodes.shutdown()


def on(cluster: Any) -> dict[str, Any]:
    return {"executor": "ray", "address": cluster.address, "threads": 1}


def test_a_node_that_is_lost_in_the_middle_loses_no_result(
    cluster: Any, data: Opened, tmp_path: Path
) -> None:
    doomed = [cluster.add_node(num_cpus=1, object_store_memory=MEMORY, env_vars={"DOOMED": "1"})]
    log = tmp_path / "log"
    told = []

    def lose_it(progress: Progress) -> None:
        told.append(progress)
        if doomed and notes(log, "doomed"):
            cluster.remove_node(doomed.pop(), allow_graceful=False)

    outcome = run(data, tmp_path / "ray", f"Doomed log={log}", progress=lose_it, **on(cluster))
    assert sorted(outcome.done) == [*NAMES]
    assert (outcome.failed, outcome.workers) == ({}, 2)
    assert told[-1] == Progress(len(NAMES), 0, len(NAMES), len(NAMES) * LENGTH, len(NAMES) * LENGTH)
    ((level, lost),) = notes(log, "doomed")
    started = notes(log, "start")
    assert sorted(shown for shown, _ in started) == sorted([level, *(LEVELS[name] for name in NAMES)])
    assert len({process for _, process in started} - {lost}) == 1, "a tracker is opened once"
    run(data, tmp_path / "here", "Follow", workers=1)
    assert_same_boxes(passes(tmp_path / "ray"), passes(tmp_path / "here"))
    assert not ray.is_initialized()
    assert_ended({process for _, process in started})


def test_a_failure_fails_its_sequence_only_and_paths_count_from_here(
    cluster: Any, data: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    few = data._replace(sequences={name: data.sequences[name] for name in "abc"})
    tracker = f"Flawed fault=dies level={LEVELS['b']} log=log"
    outcome = run(few, tmp_path / "run", tracker, workers=1, **on(cluster))
    assert sorted(outcome.done) == ["a", "c"]
    assert outcome.failed == {"b": "the tracker's process ended by the signal SIGKILL at frame 3"}
    assert len(notes(tmp_path / "log", "start")) == 3, "no second try"
    assert len(passes(tmp_path / "run")["a"].boxes_frame) == LENGTH


def test_a_tracker_that_cannot_be_opened_ends_the_run(cluster: Any, data: Opened, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the tracker cannot be opened: .* the model is somewhere else"):
        run(data, tmp_path, "Unopenable", **on(cluster))
    assert not ray.is_initialized()


def test_a_cluster_that_is_not_there_is_said_so(data: Opened, tmp_path: Path) -> None:
    with pytest.raises(ConnectionError, match=r"no Ray cluster answers at '127.0.0.1:1'"):
        run(data, tmp_path, "Follow", executor="ray", address="127.0.0.1:1")


def test_what_is_no_address_is_refused(data: Opened, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"is auto, HOST:PORT or ray://HOST:PORT, got 'cluster'"):
        run(data, tmp_path, "Follow", executor="ray", address="cluster")


def test_without_ray_a_sentence_says_how_to_get_it(
    data: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'mixformerv2\[ray\]'"):
        run(data, tmp_path, "Follow", executor="ray")
