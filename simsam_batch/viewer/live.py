"""Cosines of any patch, and where any point goes in another image: by stored features, or by the run's own network.

Torch is imported at the first question, in the one thread that answers all of them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as StillAtWork
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from starlette.requests import Request
from starlette.responses import Response

from simsam_batch import images
from simsam_batch.errors import ImageError, SettingsError
from simsam_batch.images.prepare import prepare_decoded
from simsam_batch.results.photographs import enough_of, limits_of
from simsam_batch.results.sources import decoded_of
from simsam_batch.viewer.answers import RefusedError, as_array, as_json, body_of, finite, one_of_these, whole_of
from simsam_batch.viewer.kept import Kept
from simsam_batch.viewer.maps import cover_of, good_row
from simsam_batch.viewer.payload import row_of
from simsam_batch.viewer.session import OpenedRun, OpenedStage, Session

if TYPE_CHECKING:
    import torch

    from simsam_batch.correspondence.grids import PatchGrid

T = TypeVar("T")
Described = tuple["PatchGrid", "torch.Tensor"]
"""The patches of an image, and what describes them, (Hp, Wp, D) of unit length."""

_WAITING = 8
_PATIENCE_S, _LOADING_S = 60.0, 0.5
_HELD_BYTES = 256 * 2**20
_MATCHING = {"window": 2, "temperature": 0.02, "mutual_within": 1.0}
"""Of images that no pair of the run has brought together."""


def routes(session: Session) -> list[tuple[str, str, Any]]:
    """``api/live/affinity`` and ``api/live/match``."""

    def affinity(request: Request) -> Response:
        body, live = body_of(request), live_of(session)
        stage = live.stage(body)
        row, patch = whole_of(body.get("row"), "row"), whole_of(body.get("patch"), "patch")

        def cosines() -> tuple[Any, str]:
            read = good_row(stage, row)
            _, descriptors = live.described(stage, row)
            if patch >= (count := descriptors.shape[0] * descriptors.shape[1]):
                raise RefusedError(404, f"there is no patch {patch}: the image has {count}")
            flat = descriptors.flatten(0, 1).float()
            found = (flat @ flat[patch]).reshape(descriptors.shape[:2]).cpu().numpy().astype(np.float16)
            return found, ",".join(f"{share:.6g}" for share in cover_of(read, stage.rows.settings))

        if (busy := live.busy(stage)) is not None:
            return busy
        found, cover = live.asked(cosines)
        return as_array(found, request, cover=cover)

    def match(request: Request) -> Response:
        body, live = body_of(request), live_of(session)
        point = tuple(_coordinate(body.get(name), name) for name in ("x", "y"))
        if "pair" not in body:
            stage = live.stage(body)
            rows = whole_of(body.get("row"), "row"), whole_of(body.get("other"), "other")
            if (busy := live.busy(stage)) is not None:
                return busy
            source, target = rows
            return as_json(
                live.asked(lambda: live.match(live.described(stage, source), live.described(stage, target), point))
            )
        of_pairs, number = live.pairs(body), whole_of(body["pair"], "pair")
        if (busy := live.busy(of_pairs)) is not None:
            return busy
        return as_json(live.asked(lambda: live.match_pair(of_pairs, number, point)))

    return [("POST", "api/live/affinity", affinity), ("POST", "api/live/match", match)]


def live_of(session: Session) -> Live:
    """What answers the questions of a session."""
    found: Live = session.once("live", lambda: Live(session))
    return found


class Live:
    """Answers about features, one question after the other.

    Args:
        session: with the options ``live``, ``weights`` and ``device``.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self._worker = ThreadPoolExecutor(1, "simsam-live")
        self._free = threading.BoundedSemaphore(_WAITING)
        self._lock = threading.Lock()
        self._loads: dict[tuple[str, str], tuple[Any, Future[Any]]] = {}
        # what was loaded, by the stage's version; of the worker's thread alone
        self._loaded: dict[tuple[str, str], tuple[Any, Any]] = {}
        self._held: Kept[Described] = Kept(_HELD_BYTES, lambda described: described[1].nbytes)

    def about(self, which: str = "a") -> dict[str, Any]:
        """Whether questions about a run are answered, why not, on which device, of which features of which stages."""
        options, run = self._session.options, self._session.run(which)
        device = options.get("device") or "auto"
        if not options.get("live"):
            off = {"on": False, "why": "start it with --live to compare any point"}
            return off | {"device": None, "features": None, "stages": []}
        stages = [name for name in run.stages if _features_of(run.stage(name)) is not None]
        why = None if stages else "no stage of this run has features of patches, or a network that gives them"
        stored = "features" in stages
        # stored features answer for every stage
        stages = ["features"] if stored else stages
        if stages and not stored and all(_needs_weights(run.stage(name), options) for name in stages):
            why = "start it with --live --weights FILE: the weights of the run's network"
        told = {"on": why is None, "why": why, "device": device, "features": "stored" if stored else "computed"}
        return told | {"stages": stages if why is None else []}

    def stage(self, body: Mapping[str, Any]) -> OpenedStage:
        """The stage whose features a question is about: the stored ones, else those of the stage named, or the first.

        Raises:
            RefusedError: 409: `about` says why not; 404: the stage has none.
        """
        run = self._run(body)
        name = body.get("stage")
        if "features" in run.stages:
            return run.stage("features")
        having = [each for each in run.stages if _features_of(run.stage(each)) is not None]
        if name is not None:
            having = [each for each in having if each == name]
        if not having:
            raise RefusedError(404, "this stage has no features of patches, and no network that gives them")
        return run.stage(having[0])

    def pairs(self, body: Mapping[str, Any]) -> OpenedStage:
        """The stage of pairs that a question names, or the first; raises as `stage`."""
        run = self._run(body)
        names = [each for each in run.stages if run.stage(each).kind == "pairs"]
        name = one_of_these(body.get("stage") or (names or [""])[0], "stage", names)
        if "features" not in run.stages or "channels_of" not in run.stage(name).rows.resolved:
            raise RefusedError(404, f"{name} did not match by features of patches, which alone can be asked live")
        return run.stage(name)

    def busy(self, stage: OpenedStage) -> Response | None:
        """None once the model of a stage is there, which is loaded at the first call; else the answer till then.

        What was loaded before the run was opened anew goes, if rows have come since or were replaced.
        """
        key, version = (stage.out.url, stage.name), _version(stage)
        with self._lock:
            known, loading = self._loads.get(key, (None, None))
            if loading is None or known != version:
                loading = self._worker.submit(lambda: self._of(stage))
                self._loads[key] = version, loading
        try:
            loading.result(timeout=_LOADING_S)
        except StillAtWork:
            return as_json({"busy": "the features are made ready: some seconds, once"}, 202)
        except Exception:
            with self._lock:
                if self._loads.get(key) == (version, loading):
                    del self._loads[key]
            raise
        return None

    def asked(self, work: Callable[[], T]) -> T:
        """What ``work`` gives in the worker's thread; raises what that raises.

        Raises:
            RefusedError: 503: too many questions wait; 409: the image cannot be read.
        """
        if not self._free.acquire(blocking=False):
            raise RefusedError(503, "too many questions wait for the features; ask again in a moment")
        future = self._worker.submit(work)
        future.add_done_callback(lambda _: self._free.release())
        try:
            return future.result(timeout=_PATIENCE_S)
        except StillAtWork as error:
            future.cancel()
            raise RefusedError(503, "the features take too long; ask again in a moment") from error
        except ImageError as error:
            raise RefusedError(409, str(error)) from error

    def described(self, stage: OpenedStage, row: int) -> Described:
        """One image; in the worker's thread."""
        good_row(stage, row)
        loaded = self._of(stage)
        key = (stage.out.url, stage.name, row, stage.version(row))
        return self._held.get(key, lambda: loaded(row))

    def match_pair(self, stage: OpenedStage, number: int, point: tuple[float, ...]) -> dict[str, Any]:
        """Where a point of a pair's source goes in its target; in the worker's thread."""
        pair = row_of(stage, number)
        if pair["status"] != "ok":
            raise RefusedError(409, f"{stage.name} failed on it: {pair['error_type']}: {pair['error']}")
        described = self._of(stage)
        source, target = described.of(pair["source_record"]), described.of(pair["target_record"])
        seen_as = source.mirrored if pair.get("mirrored") and source.mirrored is not None else source.descriptors
        settings = {name: stage.rows.settings[name] for name in _MATCHING}
        return self.match((source.grid, seen_as), (target.grid, target.descriptors), point, settings)

    def match(
        self, source: Described, target: Described, point: tuple[float, ...], settings: Mapping[str, Any] = _MATCHING
    ) -> dict[str, Any]:
        """``x``, ``y``, ``similarity``, ``mutual``, ``grid``, ``cover`` and ``map``; in the worker's thread.

        Raises:
            RefusedError: 400: the point is outside of the image, or where no patch has seen it.
        """
        import torch

        from simsam_batch.correspondence.matching import match

        points = np.array([point])
        if not source[0].covers(points)[0]:
            raise RefusedError(400, "no patch has seen this point: it is outside, or in the rest that is cut off")
        with torch.inference_mode():
            found = match(
                source[1].float(),
                target[1].float(),
                source[0].cells_of(points),
                radius=settings["window"],
                temperature=settings["temperature"],
                keep=True,
            )
        assert found.maps is not None  # noqa: S101  they were asked for
        grid = target[0]
        ((x, y),) = grid.points_of(found.cells).tolist()
        cover = [min(1.0, cells * grid.patch / side) for cells, side in zip(grid.shape, grid.resized, strict=True)]
        told = {"x": x, "y": y, "similarity": float(found.similarity[0])}
        told |= {"mutual": bool(found.returned[0] <= settings["mutual_within"]), "grid": list(grid.shape)}
        answer: dict[str, Any] = finite(told | {"cover": cover, "map": np.round(found.maps[0].ravel(), 4).tolist()})
        return answer

    def _of(self, stage: OpenedStage) -> Any:
        """What `_loaded` gives for a stage as it is open now, in the worker's thread: one of each stage is kept."""
        key, version = (stage.out.url, stage.name), _version(stage)
        known, loaded = self._loaded.get(key, (None, None))
        if loaded is None or known != version:
            # the old one goes first, so that the memory never holds both
            loaded = None
            self._loaded.pop(key, None)
            loaded = _loaded(stage, self._session.options)
            self._loaded[key] = version, loaded
        return loaded

    def _run(self, body: Mapping[str, Any]) -> OpenedRun:
        which = one_of_these(body.get("run", "a"), "run", ("a", "b"))
        if not (about := self.about(which))["on"]:
            raise RefusedError(409, f"live questions are off: {about['why']}")
        return self._session.run(which)


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse a device that is not there, and options that nothing reads.

    Raises:
        SettingsError: saying what to do.
    """
    if not options.get("live"):
        given = [f"--{name}" for name in ("weights", "device") if options.get(name) not in (None, "auto")]
        if given:
            raise SettingsError(f"live: {' and '.join(given)} say how to answer live questions. To mend it: add --live")
    elif options.get("device") == "cuda":
        from simsam_batch.workers.models import compute_device

        compute_device("cuda")


def _features_of(stage: OpenedStage) -> str | None:
    """``stored`` or ``computed``: whence the features of a stage's images come; None: from nowhere."""
    if stage.name == "features":
        return "stored"
    models = stage.rows.resolved.get("models") or {}
    return "computed" if "backbone" in models and "content_sha256" in stage.rows.schema.names else None


def _version(stage: OpenedStage) -> Any:
    """What changes when rows of a stage, or of the features that it is asked by, come or are replaced."""
    read = {stage.name, *({"features"} & set(stage.run.stages))}
    return {name: stage.run.stage(name).generations for name in read}


def _needs_weights(stage: OpenedStage, options: Mapping[str, Any]) -> bool:
    return stage.rows.settings.get("backbone") != "descriptors" and not options.get("weights")


def _device(options: Mapping[str, Any]) -> Any:
    import torch

    from simsam_batch.workers.models import compute_device

    return torch.device(compute_device(options.get("device") or "auto"))


def _loaded(stage: OpenedStage, options: Mapping[str, Any]) -> Any:
    """Of a stage of pairs its images described; of any other a function from rows to what describes them."""
    if stage.kind == "pairs":
        return _stored(stage, options, context=stage.rows.settings["context"] == "log-bins")
    if stage.name != "features":
        return _computing(stage, options)
    found = _stored(stage, options, context=False)

    def described(row: int) -> Described:
        image = found.of(row)
        return image.grid, image.descriptors.half()

    return described


def _stored(stage: OpenedStage, options: Mapping[str, Any], *, context: bool) -> Any:
    from simsam_batch.stages.matches.described import DescribedImages

    if stage.rows.resolved.get("fused"):
        raise RefusedError(409, "the pairs were matched by features of several runs, which cannot be asked live")
    reader = OpenedRun(stage.out.url).stage("features")
    resolved = stage.rows.resolved
    names = list(resolved.get("channels_of") or resolved["models"]["taps"]["channels_of"])
    resize = images.parse_resize(reader.rows.settings["resize"])
    return DescribedImages(stage.out, names, resize, _device(options), context=context)


def _computing(stage: OpenedStage, options: Mapping[str, Any]) -> Callable[[int], Described]:
    """Pixels as the run has read them through the network that it had; weights of another digest are refused."""
    import torch

    from simsam_batch.settings import FeatureSettings
    from simsam_batch.spectral.affinity import normalize_rows
    from simsam_batch.stages.matches.grids import grid_of
    from simsam_batch.workers.models import load_model
    from simsam_batch.workers.pixels import normalized, uploaded

    if _needs_weights(stage, options):
        raise RefusedError(409, "start it with --live --weights FILE: the weights of the run's network")
    known = stage.rows.settings
    given = {name: value for name, value in known.items() if name in FeatureSettings.model_fields}
    settings = FeatureSettings(**given | ({"weights": options["weights"]} if options.get("weights") else {}))
    device = _device(options)
    backbone = load_model("backbone", settings, stage.rows.resolved["models"], str(device))
    resize = images.parse_resize(known["resize"])

    def described(row: int) -> Described:
        read = good_row(stage, row)
        decoded = decoded_of(read, known, enough_of(known))
        if decoded is None:
            raise RefusedError(409, "the image is not where the run has read it any more, or another one by now")
        grid = grid_of(read, resize)
        prepared = prepare_decoded(
            decoded,
            limits=limits_of(known, read),
            resize=resize,
            patch=backbone.patch,
            way=known.get("decode", "exact"),
        )
        with torch.inference_mode():
            found = backbone(normalized(uploaded([prepared.rgb], device), backbone.mean, backbone.std))
            rows = normalize_rows(found.descriptors)[0]
        return grid, rows.reshape(*grid.shape, -1).half()

    return described


def _coordinate(given: Any, name: str) -> float:
    if isinstance(given, bool) or not isinstance(given, int | float) or not abs(given) < 1e9:
        raise RefusedError(400, f"{name}: give a number of pixels")
    return float(given)
