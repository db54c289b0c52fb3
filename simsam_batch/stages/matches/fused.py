"""Runs whose stored features stand beside those of a command."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from simsam_batch.errors import RunError, SettingsError
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.stage_record import read_record
from simsam_batch.stages.features.stage import FeaturesStage
from simsam_batch.stages.matches.described import FusedFeatures, facing
from simsam_batch.storage import Folder

_DIGEST = "first_content_digest"


def facts_of(urls: Sequence[str], channels_of: Mapping[str, int]) -> list[dict[str, Any]]:
    """What identifies the features of some runs, as plain JSON values.

    Args:
        urls: of their folders.
        channels_of: the command's own features, which those must be like.

    Raises:
        SettingsError: there are none, they are not finished, or they are of pictures one way and the others of both.
        RunError: a record is damaged.
        StorageError: the storage did not answer.
    """
    found = []
    for url in urls:
        out = Folder(url)
        record = read_record(out, FeaturesStage.name)
        if record is None:
            raise SettingsError(
                f"fuse: {out.url} has no stage features. To mend it: give the OUT of simsam features, or of another "
                "command that keeps them, over the same images; a run that was moved has to come back"
            )
        result = Ledger(out, FeaturesStage.name).published(_DIGEST)
        if result is None:
            raise SettingsError(
                f"fuse: the stage features of {out.url} is not finished. To mend it: run the command that began it "
                "again, to its end"
            )
        channels: dict[str, int] = record["resolved"]["models"]["taps"]["channels_of"]
        if bool(facing(channels, mirrored=True)) != bool(facing(channels_of, mirrored=True)):
            raise SettingsError(
                f"fuse: {out.url} and this command differ in --mirrored. To mend it: give it to both, or to none"
            )
        found.append({"digest": result[_DIGEST], "channels_of": channels})
    return found


def fused_features(urls: Sequence[str], facts: Sequence[Mapping[str, Any]]) -> list[FusedFeatures]:
    """The features of some runs, which must be what they were as the command began.

    Raises:
        RunError: they are not.
        StorageError: the storage did not answer.
    """
    found = []
    for number, (url, known) in enumerate(zip(urls, facts, strict=True)):
        features = FusedFeatures(Folder(url), list(known["channels_of"]), f"fused{number}")
        if features.digest != known["digest"]:
            raise RunError(
                f"the features of {url} are not those that this run began with. To mend it: restore them, or use "
                "another OUT"
            )
        found.append(features)
    return found
