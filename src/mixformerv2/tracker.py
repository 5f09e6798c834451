"""The online tracker of one object: cut a crop around the last box, ask the network, map back."""

from __future__ import annotations

import warnings
from collections.abc import Generator
from pathlib import Path
from typing import Any

from mixformerv2.config import DEFAULT_MODEL, TrackerConfig
from mixformerv2.images import as_rgb_uint8, check_channels
from mixformerv2.results import Result
from mixformerv2.runtime.backend import Backend, open_backend
from mixformerv2.target import RgbFrame, Target
from mixformerv2.video import FrameSource, open_source

_NOT_STARTED = "the tracker has no object yet: call init(frame, box) before update(frame)"


class Tracker:
    """Follows one object through a video.

    ``model`` is a shipped name, a folder made by ``mixformerv2 export`` or a ``.safetensors`` checkpoint. ``backend``
    is ``auto``, ``openvino``, ``onnxruntime`` or ``torch``, or a backend that another tracker has loaded
    (``tracker.backend``), which costs nothing to share and brings its own model, whatever ``model`` says.
    ``precision`` is ``f32``, ``bf16``, ``f16`` or ``int8``, as far as the backend has it here, or ``auto``: the fastest
    that the processor is made for, int8 among them where the model has that graph. ``channels``
    is ``rgb``, or ``bgr`` for frames from OpenCV. ``config`` replaces the online rules that the model came with, all
    of them: to change one, ``tracker.config = dataclasses.replace(tracker.config, lost_threshold=0.3)`` before
    ``init``.

    ``init`` may be called again for the next video or another object.
    Raises ValueError, an OSError or, for a runtime that is not installed, ModuleNotFoundError, each with one sentence,
    where the model or an option is wrong.
    """

    def __init__(
        self,
        model: str | Path = DEFAULT_MODEL,
        backend: str | Backend = "auto",
        precision: str = "auto",
        device: str = "auto",
        threads: int | None = None,
        channels: str = "rgb",
        config: TrackerConfig | None = None,
    ) -> None:
        check_channels(channels)
        if isinstance(backend, str):
            backend = open_backend(model, backend, precision, device, threads)
        elif not isinstance(backend, Backend):
            raise ValueError(
                f"backend must be a name or a loaded backend, as tracker.backend is, got {type(backend).__name__}"
            )
        elif (precision, device, threads) != ("auto", "auto", None):
            raise ValueError(
                "a backend that is loaded has its own precision, device and threads: leave these options out, or give "
                "the backend by name"
            )
        self.backend = backend
        self.config = backend.config.tracker if config is None else config
        self._channels = channels
        self.target: Target | None = None

    @property
    def config(self) -> TrackerConfig:
        """The online rules, from the next ``init`` on."""
        return self._config

    @config.setter
    def config(self, config: TrackerConfig) -> None:
        if not isinstance(config, TrackerConfig):
            raise ValueError(
                f"config must be a mixformerv2.config.TrackerConfig, got {type(config).__name__}"
            )
        self._config = config

    def init(self, frame: Any, box: Any) -> None:
        """Starts on the object in ``box``, ``(x, y, w, h)`` in pixels of ``frame``.

        ``frame`` is (H, W, 3) uint8; grey, RGBA, 16-bit and [0, 1] float frames are converted. A box that reaches over
        the border is clipped, with a warning. Raises ValueError for a box without size or wholly outside, and for any
        other kind of frame.
        """
        self.init_rgb(as_rgb_uint8(frame, self._channels, copy=False), box)

    def init_rgb(self, rgb: RgbFrame, box: Any) -> None:
        """``init`` for a frame that is RGB uint8 already, as those of a video source are, whatever ``channels`` is."""
        target = Target(rgb, box, self.backend, self.config)
        target.calibrate_size(rgb)
        self.target = target

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The current box, ``(x, y, w, h)`` in pixels of the last frame."""
        if self.target is None:
            raise ValueError(_NOT_STARTED)
        return self.target.box

    def update(self, frame: Any) -> Result:
        """Where the object is in the next frame.

        The box is ``(x, y, w, h)`` in float pixels, never wholly outside the frame; the score in [0, 1] says how sure
        the network is; the state is ``tracking`` or ``lost``. By the rule ``hold_when_lost``, which the shipped models
        have, the box of a lost target stays as it was last found, and the score is that of the answer which was not
        taken. A frame of another size is taken for the same picture
        at another resolution. Raises ValueError before ``init`` and for a frame of a wrong kind.
        """
        if self.target is None:
            raise ValueError(_NOT_STARTED)
        return self.update_rgb(as_rgb_uint8(frame, self._channels, copy=False))

    def update_rgb(self, rgb: RgbFrame) -> Result:
        """``update`` for a frame that is RGB uint8 already."""
        if self.target is None:
            raise ValueError(_NOT_STARTED)
        return self.target.update(rgb)


def track(
    source: str | Path | int | FrameSource,
    box: Any,
    start_frame: int = 0,
    tracker: Tracker | None = None,
) -> Generator[tuple[RgbFrame, Result], None, None]:
    """Follows the object in ``box`` from ``start_frame`` on; yields every frame (RGB) with its result.

    ``source`` is a video file, a folder or glob of images, a camera number or a URL; or frames that are open, which
    begin where they stand. The first result is the given box itself with score 1. Of ``tracker`` the model and the
    rules are taken, so that it may follow something else meanwhile; without it the default model is loaded. The
    source is closed at the end, or with the generator's ``close``.
    Raises ValueError or an OSError with one sentence for a source that is wrong; for a box, when the first frame is
    asked for. A stream that ends early warns.
    """
    tracker = Tracker() if tracker is None else tracker
    if not isinstance(tracker, Tracker):
        raise ValueError(f"tracker must be a Tracker, such as Tracker('tiny'), got {type(tracker).__name__}")
    frames = source if isinstance(source, FrameSource) else open_source(source, start_frame)
    following = _follow(frames, box, Tracker(backend=tracker.backend, config=tracker.config))
    next(following)  # enters the block that closes the source, also where no frame is ever asked for
    return following


def _follow(frames: FrameSource, box: Any, tracker: Tracker) -> Generator[Any, None, None]:
    with frames:
        yield None
        for index, frame in enumerate(frames):
            if index == 0:
                tracker.init_rgb(frame, box)
                yield frame, Result(tracker.box, 1.0, "tracking")
            else:
                yield frame, tracker.update_rgb(frame)
        if frames.warning:
            warnings.warn(frames.warning, stacklevel=2)
