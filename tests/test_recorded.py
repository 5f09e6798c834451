"""What a GPU replays: the same answers, whatever is asked in between; with a recording that a CPU can play, too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from exported_models import MODELS, Exported, crops, decided, inputs

from mixformerv2.config import Config
from mixformerv2.model import checkpoint
from mixformerv2.runtime.backend import WEIGHTS_FILE, Located
from mixformerv2.runtime.recorded import Recordings, Run
from mixformerv2.runtime.torch import MOST_RECORDED, TorchBackend

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")),
]


class Tape:
    """Plays a function by calling it again, as a CPU can; counts."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def record(self, run: Run) -> Run:
        self.recorded += 1

        def replay() -> None:
            self.replayed += 1
            run()

        return replay


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def tape() -> Tape:
    return Tape()


@pytest.fixture
def opened(exported: Exported, tape: Tape) -> Callable[[str, str], TorchBackend]:
    """A backend that records: on a GPU it does so by itself."""

    def opened(model: str, device: str) -> TorchBackend:
        backend = TorchBackend(exported.folders[model] / WEIGHTS_FILE, "f32", device, threads=1)
        if device == "cpu":
            assert backend._recordings is None
            backend._recordings = Recordings(tape.record)
        return backend

    return opened


def plain(exported: Exported, model: str) -> TorchBackend:
    return TorchBackend(exported.folders[model] / WEIGHTS_FILE, "f32", "cpu", threads=1)


def assert_same(ours: Located, reference: Located) -> None:
    np.testing.assert_allclose(ours.box_unit, reference.box_unit, rtol=0, atol=1e-4)
    np.testing.assert_allclose(ours.score, reference.score, rtol=0, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("model", MODELS)
def test_targets_in_turns_get_the_answers_of_the_network_itself(
    opened: Callable[[str, str], TorchBackend], exported: Exported, model: str, device: str
) -> None:
    backend, reference = opened(model, device), plain(exported, model)
    # Two alike in shape, one with another number of templates, and two at once.
    targets = [
        inputs(batch, online, seed)[:2]
        for batch, online, seed in ((1, 1, 0), (1, 1, 9), (1, 2, 18), (2, 1, 27))
    ]
    caches = [backend.encode_templates(*templates) for templates in targets]
    references = [reference.encode_templates(*templates) for templates in targets]
    for frame, which in enumerate((0, 0, 1, 0, 2, 3, 1, 3, 0)):
        search = crops(len(targets[which][0]), 64, 64, seed=100 + frame)
        assert_same(backend.search(search, caches[which]), reference.search(search, references[which]))


def test_templates_that_see_the_search_region_are_recorded_too(tmp_path: Path, tape: Tape) -> None:
    model, weights = replace(MODELS["scored"], attention="symmetric"), tmp_path / "symmetric.safetensors"
    checkpoint.save(decided(model), Config(model), weights)
    backend, reference = (TorchBackend(weights, "f32", "cpu", threads=1) for _ in range(2))
    backend._recordings = Recordings(tape.record)
    template, online, search = inputs(batch=1, online=1)
    ours, theirs = (
        one.search(search, one.encode_templates(template, online)) for one in (backend, reference)
    )
    assert_same(ours, theirs)
    assert tape.recorded == 2


def test_each_shape_is_recorded_once(opened: Callable[[str, str], TorchBackend], tape: Tape) -> None:
    backend = opened("scored", "cpu")
    for seed in range(3):
        template, online, search = inputs(batch=1, online=1, seed=seed)
        backend.search(search, backend.encode_templates(template, online))
    assert (tape.recorded, tape.replayed) == (2, 6)
    template, online, search = inputs(batch=2, online=1)
    backend.search(search, backend.encode_templates(template, online))
    assert (tape.recorded, tape.replayed) == (4, 8)


def test_an_answer_stays_when_the_next_is_asked_for(opened: Callable[[str, str], TorchBackend]) -> None:
    backend = opened("scored", "cpu")
    template, online, search = inputs(batch=1, online=1)
    cache = backend.encode_templates(template, online)
    kept = [part.clone() for entry in cache for part in entry]
    first = backend.search(search, cache)
    box_unit = first.box_unit.copy()
    backend.encode_templates(*inputs(batch=1, online=1, seed=5)[:2])
    backend.search(crops(1, 64, 64, seed=6), cache)
    np.testing.assert_array_equal(first.box_unit, box_unit)
    assert all(
        torch.equal(part, before) for part, before in zip((p for e in cache for p in e), kept, strict=True)
    )


def test_many_targets_at_once_are_not_recorded(
    opened: Callable[[str, str], TorchBackend], exported: Exported, tape: Tape
) -> None:
    backend, reference = opened("scored", "cpu"), plain(exported, "scored")
    template, online, search = inputs(batch=MOST_RECORDED + 1, online=1)
    ours = backend.search(search, backend.encode_templates(template, online))
    assert_same(ours, reference.search(search, reference.encode_templates(template, online)))
    assert tape.recorded == 0


@pytest.mark.parametrize("device", DEVICES)
def test_threads_that_share_a_recording_do_not_mix(
    opened: Callable[[str, str], TorchBackend], exported: Exported, device: str
) -> None:
    backend, reference = opened("scored", device), plain(exported, "scored")

    def follow(seed: int) -> list[tuple[Located, Located]]:
        template, online, _ = inputs(batch=1, online=1, seed=seed)
        ours, theirs = (one.encode_templates(template, online) for one in (backend, reference))
        searches = [crops(1, 64, 64, seed=seed + frame) for frame in range(20)]
        return [(backend.search(search, ours), reference.search(search, theirs)) for search in searches]

    with ThreadPoolExecutor(4) as pool:
        for answers in pool.map(follow, range(0, 400, 100)):
            for ours, theirs in answers:
                assert_same(ours, theirs)
