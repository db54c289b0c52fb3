"""``simsam doctor``: what this machine has for a run, tried out piece by piece; each is ok or comes with the mend."""

from __future__ import annotations

import io
import json
import os
import platform
import re
import resource
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

from simsam_batch.errors import SimsamError, StorageError
from simsam_batch.storage import Folder, absolute_url
from simsam_batch.storage.folder import PROBE
from simsam_batch.storage.urls import protocol_of

_OLDEST_PYTHON = (3, 11)
_FEWEST_FILES = 1024
_LARGEST_RESIDUAL = 1e-4
_CLOCK_SKEW_S = 300.0
_DISTRIBUTION = "simsam-batch"
_PLACE, _CLOCK = "doctor", "clock.json"
_MEND_SOLVER = "reinstall numpy, scipy and torch: one of them computes wrong on this machine"


@dataclass(frozen=True, slots=True)
class Check:
    """What came of one check.

    Attributes:
        name: what was looked at.
        ok: False if a run would fail over it. What is optional and absent is no failure.
        text: what was found.
        mend: what to do about a failure, one line.
        more: further lines of what was found.
    """

    name: str
    ok: bool
    text: str
    mend: str = ""
    more: tuple[str, ...] = ()


def lines(check: Check) -> list[str]:
    """A check for people: one line, then what more was found, or the mend of what failed."""
    shown = f"{'ok' if check.ok else 'FAILED':6}  {check.name:13}  {check.text}"
    below = check.more if check.ok else (f"To mend it: {check.mend}",)
    return [shown, *(f"{'':23}{line}" for line in below)]


def checks(
    out: str | None = None,
    *,
    backbone: str | None = None,
    weights: str | None = None,
    checkpoint_part: str | None = None,
    single_driver: bool = False,
) -> Iterator[Check]:
    """Look at everything a run needs, and yield what each check came to, as it comes.

    Nothing is written but, with ``out``, two files in a folder of their own, which are deleted again.

    Args:
        out: folder of a run, there or to be, as a path or any fsspec URL; it is listed and written to.
        backbone: load this one, with ``weights`` as in `simsam_batch.settings.SpectralSettings`; None: that of
            the run in ``out``, or the default one.
        weights: file or URL.
        checkpoint_part: which network of a file with several; None: that of the run, or ``auto``.
        single_driver: do not ask whether the store honours conditional create.
    """
    yield _checked("python", _python, "install Python 3.11 or newer")
    yield _checked("packages", _packages, f"pip install --upgrade {_DISTRIBUTION}")
    yield _checked("machine", _machine, "ulimit -n 65536, in the shell or unit that starts the run")
    yield _checked("gpu", _gpu, "match the driver, torch's CUDA and CUDA_VISIBLE_DEVICES; or run with --device cpu")
    yield _checked("cupy", _cupy, "install the CuPy of torch's CUDA: simsam-batch[gpu] or [gpu-cuda12]")
    for solver in ("eigh", "arpack", "lobpcg", "block-lanczos"):
        yield _checked(solver, partial(_solver, solver, "cpu"), _MEND_SOLVER)
    for name in ("JPEG", "PNG", "WEBP", "TIFF", "JPEG2000", "AVIF"):
        yield _checked(name.lower(), partial(_decoder, name), "pip install --force-reinstall pillow, from a wheel")
    yield _checked("heic", partial(_optional, "pillow_heif", "heic"), "pip install --upgrade 'simsam-batch[heic]'")
    yield _checked("ray", partial(_optional, "ray", "ray"), "pip install --upgrade 'simsam-batch[ray]'")
    yield _checked("s3", partial(_optional, "s3fs", "s3"), "pip install --upgrade 'simsam-batch[s3]'")
    yield _checked("crf", _crf, "pip install --force-reinstall 'simsam-batch[crf]'")
    folder = None if out is None else Folder(out, single_driver=single_driver)
    network = {"backbone": backbone, "weights": weights, "checkpoint_part": checkpoint_part}
    yield _checked("backbone", partial(_backbone, network, folder), "give --backbone and --weights that fit")
    if out is not None:
        yield from _of_storage(out, single_driver)


def _of_storage(out: str, single_driver: bool) -> Iterator[Check]:
    """What OUT can do, tried in a folder of its own that is gone afterwards: a run at work there is not disturbed."""
    folder, place = (Folder(url, single_driver=single_driver) for url in (out, f"{absolute_url(out)}/{_PLACE}"))
    made = _absent_folders(place)
    mend = "check the URL, the credentials and the right to write"
    yield (storage := _checked("storage", partial(_storage, folder, place), mend))
    yield _checked("clock", partial(_clock, place), "set this machine's clock (NTP): stores refuse old signatures")
    try:
        place.delete([PROBE, _CLOCK])
    except StorageError as error:
        if storage.ok:
            yield Check("cleaning", ok=True, text=f"two small files stay in {place.url}: {error}")
    for path in made:
        with suppress(OSError):
            path.rmdir()


def _absent_folders(place: Folder) -> list[Path]:
    """Folders of the local disk that writing there makes, the innermost first."""
    path = Path(place.url)
    return [] if protocol_of(place.url) != "file" else [each for each in (path, *path.parents) if not each.exists()]


class _WrongError(SimsamError):
    """What was tried did not do what it should."""


def _checked(name: str, probe: Callable[[], str], mend: str) -> Check:
    try:
        text, *more = probe().split("\n")
        return Check(name, ok=True, text=text, more=tuple(more))
    except Exception as error:  # noqa: BLE001 - whatever it is, it is the finding
        text = str(error) if isinstance(error, SimsamError) else f"{type(error).__name__}: {error}"
        found, _, own_mend = " ".join(text.split()).partition("To mend it: ")
        return Check(name, ok=False, text=found.rstrip(" ."), mend=own_mend or mend)


def _python() -> str:
    if sys.version_info < _OLDEST_PYTHON:
        raise _WrongError(f"Python {platform.python_version()} is too old")
    return f"{platform.python_version()} on {platform.system()} {platform.machine()}"


def _packages() -> str:
    """Every required package is there, and new enough."""
    found, wrong = [], []
    for requirement in metadata.requires(_DISTRIBUTION) or ():
        if "extra ==" in requirement:
            continue
        name, _, oldest = requirement.partition(">=")
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{name} is missing")
            continue
        found.append(f"{name} {version}")
        if _numbers(version) < _numbers(oldest):
            wrong.append(f"{name} {version} is older than {oldest}")
    if wrong:
        raise _WrongError("; ".join(wrong))
    return ", ".join(found)


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version.partition("+")[0])[:3]]


def _machine() -> str:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if files != resource.RLIM_INFINITY and files < _FEWEST_FILES:
        raise _WrongError(f"only {files} files may be open at once")
    shared = os.statvfs("/dev/shm") if Path("/dev/shm").is_dir() else None  # noqa: S108 - how large it is
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        memory = min(memory, int(text))
    return (
        f"{len(os.sched_getaffinity(0))} cores, {memory / 1e9:.1f} GB memory, "
        f"{'no' if shared is None else f'{shared.f_frsize * shared.f_blocks / 1e9:.1f} GB'} shared memory, "
        f"{'any number of' if files == resource.RLIM_INFINITY else files} open files"
    )


def _gpu() -> str:
    import torch

    if not torch.cuda.is_available():
        if any(Path("/proc/driver/nvidia/gpus").glob("*")):
            raise _WrongError(f"this machine has a GPU that torch {torch.__version__} cannot use")
        return f"none; torch {torch.__version__} computes on the CPU"
    from simsam_batch.workers import models

    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    replaced = [
        f"not trusted on GPU {index} and replaced: {what}"
        for index in range(len(names))
        for what in models.replaced_on(torch.device("cuda", index))
    ]
    return "; ".join([", ".join(names), f"torch {torch.__version__}, CUDA {torch.version.cuda}", *replaced])


def _cupy() -> str:
    import torch

    try:
        import cupy
    except ImportError:
        extra = "gpu-cuda12" if (torch.version.cuda or "").startswith("12") else "gpu"
        why = "" if torch.cuda.is_available() else ", of use beside a GPU only"
        return f"absent{why}: pip install 'simsam-batch[{extra}]'"
    if not torch.cuda.is_available():
        return f"{cupy.__version__}, not tried without a GPU"
    return f"{cupy.__version__}; {_solver('block-lanczos', 'cuda')}"


def _solver(solver: Any, device: str) -> str:
    """The smallest eigenpairs of a known graph, compared with SciPy's dense solution in double precision."""
    import numpy as np
    import scipy.linalg
    import torch

    from simsam_batch.spectral.eigen import smallest_eigenpairs

    patches, k = 200, 6
    features = np.random.default_rng(0).standard_normal((patches, 8))
    features[: patches // 2] += 1.5
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    w = np.clip(features @ features.T, 1e-5, None).astype(np.float32)
    degrees = np.diag(w.astype(np.float64).sum(axis=1))
    exact = scipy.linalg.eigh(degrees - w, degrees, eigvals_only=True, subset_by_index=(0, k - 1))
    found = smallest_eigenpairs(
        torch.from_numpy(w)[None].to(device), torch.ones(1, patches, dtype=torch.bool, device=device), k, solver=solver
    )
    off = float(np.abs(found.values[0].cpu().numpy() - exact).max())
    residual = float(found.residual[0])
    if found.solver != [solver] or not off < _LARGEST_RESIDUAL or not residual < _LARGEST_RESIDUAL:
        raise _WrongError(f"{found.solver[0]} is off by {off:.1e} with residual {residual:.1e}, of {patches} patches")
    return f"right to {off:.0e} with residual {residual:.0e}, on the {device}"


def _decoder(kind: str) -> str:
    """A picture written by Pillow and read back the way a run reads images."""
    import numpy as np
    from PIL import Image, features

    from simsam_batch.images import ImageLimits, decode

    known = {"JPEG": "jpg", "PNG": "zlib", "WEBP": "webp", "TIFF": "libtiff", "JPEG2000": "jpg_2000", "AVIF": "avif"}
    feature = known[kind]
    if not features.check(feature):
        if kind in ("JPEG2000", "AVIF"):
            return f"absent from this Pillow: {kind} is not read"
        raise _WrongError(f"this Pillow was built without {feature}")
    rows = np.linspace(0, 255, 32).astype(np.uint8)
    picture = np.stack(np.broadcast_arrays(rows[:, None], rows[None, :], np.uint8(128)), axis=-1)
    target = io.BytesIO()
    Image.fromarray(picture).save(target, kind, quality=95, lossless=True)
    back = decode(target.getvalue(), ImageLimits()).rgb
    if back.shape != picture.shape or np.abs(back.astype(int) - picture).max() > (
        16 if kind in ("JPEG", "AVIF") else 0
    ):
        raise _WrongError(f"a picture written as {kind} comes back as another one")
    turbo = features.version_feature("libjpeg_turbo") if kind == "JPEG" else None
    return f"libjpeg-turbo {turbo}" if turbo else str(features.version(feature) or "as Pillow has it")


def _optional(module: str, extra: str) -> str:
    """A package that only some runs need can be imported, if it is there at all."""
    from importlib import import_module
    from importlib.util import find_spec

    if find_spec(module) is None:
        return f"absent: pip install 'simsam-batch[{extra}]'"
    import_module(module)
    version = metadata.version(module)
    for requirement in metadata.requires(_DISTRIBUTION) or ():
        name = re.match(r"[\w-]+", requirement)
        oldest = re.search(r">=([\d.]+)", requirement)
        if name and oldest and name[0] == module and _numbers(version) < _numbers(oldest[1]):
            raise _WrongError(f"{module} {version} is older than {oldest[1]}")
    return version


def _crf() -> str:
    from importlib.util import find_spec

    if find_spec("pydensecrf") is None:
        return "absent, --refine crf needs it: pip install 'simsam-batch[crf]'"
    from simsam_batch.regions.refine import load_crf

    load_crf()
    return metadata.version("pydensecrf2")


def _backbone(network: Mapping[str, str | None], folder: Folder | None) -> str:
    """The network is loaded; beside what identifies it, what became of each tensor of its weights file."""
    from simsam_batch.stages.segment.settings import SegmentSettings
    from simsam_batch.storage import absolute_url
    from simsam_batch.workers.models import ROLES

    given = {name: value for name, value in network.items() if value is not None}
    if "weights" in given:
        given["weights"] = absolute_url(given["weights"])
    chosen = {} if "backbone" in given else _begun_with(folder)
    model, resolved = ROLES["backbone"](SegmentSettings(**chosen | given, device="cpu"), "cpu")
    about = ", ".join(f"{key} {value}" for key, value in resolved.items() if isinstance(value, str | int))
    report = getattr(model, "loaded", None)
    return about if report is None else "\n".join([about, *report.lines()])


def _begun_with(folder: Folder | None) -> dict[str, Any]:
    """The network of the run in a folder, if one has begun there; what else is wrong with it has a check of its own."""
    from simsam_batch.job import recorded_settings
    from simsam_batch.results.opening import begun_stages

    if folder is None:
        return {}
    with suppress(SimsamError):
        for stage in begun_stages(folder):
            settings = recorded_settings(folder, stage, {})
            return {name: getattr(settings, name) for name in ("backbone", "weights", "checkpoint_part")}
    return {}


def _storage(folder: Folder, place: Folder) -> str:
    """The folder can be listed, written to and read, and decides among writers."""
    entries = folder.entries()
    if place.single_driver:
        place.replace(PROBE, b"{}")
    place.check_create()
    place.read(PROBE)
    told = "not asked for conditional create" if folder.single_driver else "honours conditional create"
    return f"{folder.url}: {len(entries)} entries; written and read back; {told}"


def _clock(place: Folder) -> str:
    """The store dates what is written now as this machine would."""
    began = time.time()
    place.replace(_CLOCK, json.dumps({"time": began}).encode())
    (modified,) = [info.modified for info in place.list() if info.name == _CLOCK]
    if modified is None:
        return "the store tells no times"
    skew = began - modified
    if abs(skew) > _CLOCK_SKEW_S:
        raise _WrongError(f"this machine's clock is {skew:+.0f} s off that of {place.url}")
    return f"within {abs(skew):.0f} s of the store's"
