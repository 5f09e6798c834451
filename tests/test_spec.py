"""One line of text and some options: which tracker that is, how it opens, and what its results depend on."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import cv2
import pytest
from tiny import CONFIG, MODEL, square_box, square_frame, write_checkpoint
from trackers import HERE

from mixformerv2.evaluate.run import AnyTracker
from mixformerv2.evaluate.spec import TrackerSpec, describe, open_tracker, parse, settled
from mixformerv2.model import checkpoint
from mixformerv2.model.network import build
from mixformerv2.tracker import Tracker

MODULE = """
class Stands:
    def __init__(self, **options):
        self.options = options
    def init(self, frame, box):
        self.box = box
    def update(self, frame):
        return (self.box,)

class Blind:
    def update(self, frame):
        return None

class Broken(Stands):
    def __init__(self):
        raise KeyError("no such weights")

class Leaves(Stands):
    def __init__(self):
        raise SystemExit(3)
"""


@pytest.fixture
def module(tmp_path: Path) -> str:
    path = tmp_path / "stands.py"
    path.write_text(MODULE)
    return f"python:{path}"


# --- which tracker is meant


@pytest.mark.parametrize(
    ("text", "kind", "target"),
    [
        ("tiny", "model", "tiny"),
        ("opencv:mil", "opencv", "mil"),
        ("python:some.module:Class", "python", "some.module:Class"),
        (f"command:{sys.executable} 'my tracker.py' --fast", "command", f"{sys.executable} 'my tracker.py' --fast"),
    ],
)  # fmt: skip
def test_the_beginning_of_the_text_says_what_kind_of_tracker_it_is(text: str, kind: str, target: str) -> None:
    spec = parse(text)
    assert (spec.kind, spec.target, spec.options) == (kind, target, {})


@pytest.mark.parametrize(
    ("text", "options", "sentence"),
    [
        ("large", {}, "no tracker is called 'large': choose compact, tiny, .*, opencv:nano, .*python:MODULE:CLASS"),
        ("", {}, "no tracker is called ''"),
        ("opencv:goturn", {}, "no tracker 'goturn' here: choose one of opencv:nano, opencv:vit"),
        ("python:only_a_module", {}, "is python:module:Class or .*, got 'python:only_a_module'"),
        ("python:module:", {}, "is python:module:Class or"),
        ("command:", {}, "must be followed by a command"),
        ("command:python 'half", {}, "quoted as in a shell"),
        ("tiny", {"search": "4"}, "tiny has no option 'search': choose among backend, .*search_factor"),
        ("opencv:mil", {"net": "x.onnx"}, "opencv:mil has no option 'net': choose among threads"),
        ("opencv:mil", {"peers": "models"}, "has no option 'peers'"),
        (f"command:{sys.executable}", {"precision": "f32"}, "choose among answer_s, start_s, threads"),
        ("tiny", {"search_factor": "wide"}, "search_factor must be a finite number, got 'wide'"),
        ("tiny", {"search_factor": "nan"}, "search_factor must be a finite number"),
        ("tiny", {"search_factor": True}, "search_factor must be a finite number, got True"),
        ("tiny", {"search_factor": "0.5"}, "must be above 1, got 0.5"),
        ("tiny", {"update_interval": "2.5"}, "update_interval must be a whole number, got '2.5'"),
        ("tiny", {"update_interval": 2.5}, "update_interval must be a whole number, got 2.5"),
        ("tiny", {"update_interval": "1" * 400}, "update_interval must be a whole number"),
        ("tiny", {"published_mapping": "maybe"}, "published_mapping must be true or false, got 'maybe'"),
        ("tiny", {"backend": "tensorrt"}, "backend must be one of auto, openvino, .*got 'tensorrt'"),
        ("tiny", {"precision": "f8"}, "precision must be one of auto, f32, bf16, .*got 'f8'"),
        ("tiny", {"device": 0}, "device must be text, got 0"),
        ("tiny", {"threads": "0"}, "threads must be positive, got 0"),
        (f"command:{sys.executable}", {"answer_s": "-1"}, "answer_s must be positive, got -1"),
    ],
)  # fmt: skip
def test_wrong_input_is_refused_with_what_there_is(text: str, options: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse(text, options)


def test_a_program_and_a_model_that_are_not_there_are_said_so(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="name a program that can be run, got 'no-such-tracker'"):
        parse("command:no-such-tracker --fast")
    with pytest.raises(
        FileNotFoundError, match=r"the folder .* has no model\.safetensors: a model folder comes from"
    ):
        parse(str(tmp_path))


def test_text_becomes_the_type_that_an_option_has() -> None:
    text = {"search_factor": "5", "update_interval": " 20", "published_mapping": "Yes", "threads": "2"}
    options = parse("tiny", text | {"backend": None}).options
    assert options == {"search_factor": 5.0, "update_interval": 20, "published_mapping": True, "threads": 2}
    assert [type(value) for value in options.values()] == [float, int, bool, int]


@pytest.mark.parametrize(
    ("text", "options", "label"),
    [
        ("tiny", {}, "tiny"),
        ("tiny", {"threads": "2"}, "tiny"),
        ("tiny", {"search_factor": 5, "precision": "f32"}, "tiny (precision=f32, search_factor=5.0)"),
        ("opencv:vit", {"net": "/models/vit.onnx"}, "opencv:vit"),
        ("opencv:nano", {"peers": "/models"}, "opencv:nano"),
        ("python:models/mine.py:Mine", {"net": "large"}, "Mine (net=large)"),
        (f"command:{sys.executable} /far/away/track.py -q", {"answer_s": 5}, "python track.py -q"),
    ],
)
def test_a_label_is_short_and_tells_what_changes_the_boxes(text: str, options: dict, label: str) -> None:
    assert parse(text, options).label.replace(Path(sys.executable).name, "python") == label


@pytest.mark.parametrize("given", [{}, {"precision": "auto"}, {"precision": "int8"}], ids=str)
def test_a_run_is_called_by_the_precision_that_it_had(given: dict[str, str]) -> None:
    described = {"backend": "openvino", "precision": "int8"}
    assert settled(parse("tiny", given), described, "precision").label == "tiny (precision=int8)"
    assert settled(parse("opencv:vit"), {"text": "opencv:vit"}, "precision").label == "opencv:vit"


def test_a_model_on_disk_is_called_after_its_file_or_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "run.2"
    folder.mkdir()
    for name in ("model.safetensors", "epoch_3.safetensors"):
        (folder / name).touch()
    names = [parse(str(path)).label for path in (folder, *sorted(folder.iterdir()))]
    assert names == ["run.2", "epoch_3", "run.2"]


@pytest.mark.parametrize(
    ("text", "options"), [("tiny", {"search_factor": 5.0}), (f"{HERE}:Follow", {}), ("opencv:mil", {})]
)
def test_a_spec_can_be_sent_to_another_process(text: str, options: dict) -> None:
    spec = parse(text, options)
    assert pickle.loads(pickle.dumps(spec)) == spec


# --- opening


def test_our_own_tracker_opens_with_its_options(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "small.safetensors")
    tracker = open_tracker(parse(str(path), {"update_interval": "7", "precision": "f32", "threads": 1}))
    assert isinstance(tracker, Tracker)
    assert tracker.config.update_interval == 7
    assert tracker.config.min_side_px == CONFIG.tracker.min_side_px  # the model's own, not the default
    assert tracker.backend.precision == "f32"


def test_a_class_gets_its_options_as_the_values_that_they_spell(module: str) -> None:
    text = {"net": "large", "depth": "4", "rate": "0.5", "fast": "true", "seed": "null", "names": "[1]"}
    tracker = open_tracker(parse(f"{module}:Stands", text))
    values = {"net": "large", "depth": 4, "rate": 0.5, "fast": True, "seed": None, "names": "[1]"}
    assert isinstance(tracker, AnyTracker)
    assert vars(tracker)["options"] == values


def test_threads_of_a_class_are_opencvs_and_not_its_own_option(module: str) -> None:
    before = cv2.getNumThreads()
    try:
        tracker = open_tracker(parse(f"{module}:Stands", {"threads": "1"}))
        assert cv2.getNumThreads() == 1
    finally:
        cv2.setNumThreads(before)
    assert vars(tracker)["options"] == {}


def test_a_class_is_found_in_a_module_of_the_current_folder(
    module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stands.py").rename(tmp_path / "stands_for_a_test.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    tracker = open_tracker(parse("python:stands_for_a_test:Stands"))
    tracker.init(square_frame(0), square_box(0))
    assert tracker.update(square_frame(1))[0] == square_box(0)


def test_two_files_of_one_name_are_two_modules(module: str, tmp_path: Path) -> None:
    other = tmp_path / "other" / "stands.py"
    other.parent.mkdir()
    other.write_text(MODULE.replace("self.box = box", "self.box = (0, 0, 1, 1)"))
    answers = []
    for text in (module, f"python:{other}"):
        tracker = open_tracker(parse(f"{text}:Stands"))
        tracker.init(square_frame(0), square_box(0))
        answers.append(tracker.update(square_frame(1))[0])
    assert answers == [square_box(0), (0, 0, 1, 1)]


@pytest.mark.parametrize(
    ("name", "options", "sentence"),
    [
        (
            "Missing",
            {},
            "there is no class Missing in it, those with init and update are Stands, Broken, Leaves",
        ),
        ("Blind", {}, "must have the methods init"),
        ("Broken", {}, "cannot be made: KeyError: 'no such weights'"),
        ("Broken", {"depth": "4"}, "cannot be made with the options depth: TypeError: .*depth"),
        ("Leaves", {}, "cannot be made: SystemExit: 3"),
    ],
)
def test_a_class_that_is_no_tracker_is_refused(module: str, name: str, options: dict, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        open_tracker(parse(f"{module}:{name}", options))


def test_a_module_that_cannot_be_imported_says_why(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    with pytest.raises(FileNotFoundError, match=r"there is no file .*broken\.py"):
        open_tracker(parse(f"python:{path}:Class"))
    path.write_text("import no_such_package_here")
    with pytest.raises(ModuleNotFoundError, match="cannot be imported: .*no_such_package_here"):
        open_tracker(parse(f"python:{path}:Class"))
    path.write_text("1 / 0")
    with pytest.raises(ValueError, match="cannot be imported: ZeroDivisionError"):
        open_tracker(parse(f"python:{path}:Class"))
    with pytest.raises(ModuleNotFoundError, match="no_such_module_here"):
        open_tracker(parse("python:no_such_module_here:Class"))


# --- describing


def test_a_description_is_plain_json_and_the_same_again() -> None:
    spec = parse("tiny", {"precision": "f32", "search_factor": "5"})
    about = describe(spec)
    assert json.loads(json.dumps(about)) == about == describe(spec)
    assert about["config"]["tracker"]["search_factor"] == 5.0
    assert (about["backend"], about["precision"]) == ("openvino", "f32")
    assert sorted(about["sha256"]) == ["encode_templates.onnx", "model.safetensors", "search.onnx"]
    assert {"mixformerv2", "python", "numpy", "cv2", "openvino"} == about["versions"].keys()


def test_another_precision_or_another_rule_is_another_description(tmp_path: Path) -> None:
    text = str(write_checkpoint(tmp_path / "small.safetensors"))
    options: tuple[dict, ...] = (
        {"precision": "f32"},
        {"precision": "bf16"},
        {"precision": "f32", "search_factor": 5},
    )
    about = [describe(parse(text, one)) for one in options]
    assert about[0] != about[1] and about[0] != about[2]
    assert about[0]["sha256"] == about[1]["sha256"]


def test_other_weights_under_the_same_name_are_another_description(tmp_path: Path) -> None:
    path = write_checkpoint(tmp_path / "small.safetensors")
    before = describe(parse(str(path)))
    checkpoint.save(build(MODEL, seed=1), CONFIG, path)
    after = describe(parse(str(path)))
    assert before.pop("sha256") != after.pop("sha256")
    assert before == after


def test_a_changed_class_or_command_is_another_description(module: str, tmp_path: Path) -> None:
    path = tmp_path / "stands.py"
    specs = [parse(f"{module}:Stands"), parse(f"command:{sys.executable} {path} --data {tmp_path}")]
    before = [describe(spec) for spec in specs]
    assert [sorted(about["sha256"]) for about in before] == [
        ["stands.py"],
        sorted([str(path), sys.executable]),
    ]
    path.write_text(MODULE + "# changed")
    after = [describe(spec) for spec in specs]
    assert all(one["sha256"] != other["sha256"] for one, other in zip(before, after, strict=True))


def test_what_a_class_is_given_and_what_lies_beside_it_are_part_of_its_description(tmp_path: Path) -> None:
    (tmp_path / "beside_it.py").write_text("def help_along(): pass\n")
    (tmp_path / "uses.py").write_text("from beside_it import help_along\n" + MODULE)
    weights = tmp_path / "weights.npy"
    weights.write_text("first")
    specs = [
        parse(f"python:{tmp_path}/uses.py:Stands", {"weights": str(weights)}),
        parse(f"command:{sys.executable} -c pass --weights={weights}"),
    ]
    before = [describe(spec) for spec in specs]
    assert sorted(before[0]["sha256"]) == sorted(["beside_it.py", "uses.py", str(weights)])
    weights.write_text("second")
    changed = [describe(spec) for spec in specs]
    assert all(one["sha256"] != other["sha256"] for one, other in zip(before, changed, strict=True))
    (tmp_path / "beside_it.py").write_text("def help_along(): return 1\n")
    assert describe(specs[0])["sha256"] != changed[0]["sha256"]


def test_a_spec_made_by_hand_is_what_parse_gives() -> None:
    assert TrackerSpec("opencv:mil", {"threads": 1}) == parse("opencv:mil", {"threads": "1"})
