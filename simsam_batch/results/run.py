"""A run from Python: its rows as they are asked for, masks as arrays, eigenvectors by image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike, fspath
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from simsam_batch.errors import RunError, SettingsError, SimsamError, did_you_mean
from simsam_batch.plain_text import counted
from simsam_batch.results.eigenvectors import grid_eigenvectors
from simsam_batch.results.features import PLACE, features_at
from simsam_batch.results.objects import COLUMNS as OF_OBJECTS
from simsam_batch.results.objects import FoundObject, objects_of
from simsam_batch.results.opening import begun_stages, existing_plan, main_stage
from simsam_batch.runs.ledger import Ledger
from simsam_batch.runs.plan import row_numbers
from simsam_batch.runs.reading import BATCH_ROWS, StageRows
from simsam_batch.stages.registry import command_of, shown, stage_names, stages_showing, stages_with_features
from simsam_batch.storage import Folder, absolute_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd
    import PIL.Image

    from simsam_batch.results.probe_segmenter import ProbeSegmenter
    from simsam_batch.results.torch_dataset import FeatureDataset
    from simsam_batch.results.viewing import View

Mask = NDArray[np.bool_] | NDArray[np.int32]

_PICTURES = 6
"""Of a run that a notebook shows, at most."""

_FOR_EIGENVECTORS = ["image_id", "status", "error_type", "error", "grid_h", "grid_w", "eigenvalues"]
_FOR_EIGENVECTORS += ["arrays_path", "arrays_member", "arrays_offset", "arrays_bytes"]


def open_run(url: str | PathLike[str]) -> Run:
    """Open a run to be read, whether it is finished or going on; nothing is written, and no rows are read yet.

    Args:
        url: the OUT of ``simsam segment`` or another command, as a path or any fsspec URL.

    Raises:
        SettingsError: there is no run.
        RunError: the run is damaged, or was written by a newer release.
        StorageError: the storage did not answer.
    """
    return Run(url)


class Run:
    """A run, read as it is asked for: memory holds no more than the rows in hand.

    A stage is seen as it was when it was first asked for: open the run again to see what has been committed since, and
    after ``simsam retry``, which replaces files. Images are in the order of the plan.

    All methods raise `simsam_batch.errors.SettingsError` for a stage, column or image that the run has not,
    `simsam_batch.errors.RunError` for a run that is damaged, and `simsam_batch.errors.StorageError` if the storage did
    not answer.

    Args:
        url: see `open_run`.

    Attributes:
        url: the run's folder, without credentials.
        images: how many images the run is about.
    """

    def __init__(self, url: str | PathLike[str]) -> None:
        self._url = absolute_url(fspath(url))
        self._out = Folder(self._url)
        self._plan = existing_plan(self._out)
        self._opened: dict[str, StageRows] = {}
        self.url = self._out.url
        self.images = self._plan.records

    def __repr__(self) -> str:
        return f"Run({self.url!r})"

    def __len__(self) -> int:
        return self.images

    @property
    def stages(self) -> list[str]:
        """Names of the stages that have begun, each after the one it reads."""
        return begun_stages(self._out)

    def result(self, stage: str) -> dict[str, Any]:
        """What ``results/<stage>.json`` holds: counts, scores under ``metrics``, settings; see ``docs/output.md``.

        Raises:
            RunError: the stage is not finished.
        """
        result = Ledger(self._out, self.rows(stage).stage).published()
        if result is None:
            raise RunError(
                f"{self.url}: the stage {stage} is not finished, so that it has no result yet. To mend it: run the "
                "command that made it again; the rows committed so far can be read already"
            )
        return result

    def rows(self, stage: str) -> StageRows:
        """The rows of a stage as Arrow tables or Python values: all, some columns, or some rows, none held.

        Of a stage that is not finished they are those of the shards committed so far, under the same numbers.
        """
        if stage not in self._opened:
            stages = self.stages
            if stage not in stages:
                has = f"it has {', '.join(stages)}" if stages else "none has begun"
                raise SettingsError(f"stage: {self.url} has no stage {stage!r}; {has}")
            self._opened[stage] = StageRows(self._out, stage)
        return self._opened[stage]

    def reader(
        self, stage: str, columns: Sequence[str] | None = None, *, batch_rows: int = BATCH_ROWS
    ) -> pa.RecordBatchReader:
        """The rows of a stage as a stream of Arrow record batches, as pandas, Polars, DuckDB and others take it.

        Args:
            stage: whose rows.
            columns: names, in this order; None: all.
            batch_rows: rows of a batch at most.
        """
        rows = self.rows(stage)
        names = self._checked(rows, columns)
        schema = pa.schema([rows.schema.field(name) for name in names])

        def batches() -> Iterator[pa.RecordBatch]:
            for _, table in rows.batches(names, batch_rows):
                yield from table.select(names).to_batches()

        return pa.RecordBatchReader.from_batches(schema, batches())

    def numbers(self, image_ids: Sequence[str]) -> list[int]:
        """The rows of images by their ids, in the same order: what ``rows(stage).take`` asks for.

        One pass over the ids of the plan, however many are looked for; no other column is read.

        Raises:
            SettingsError: an id is none of the run's.
        """
        if isinstance(image_ids, str):
            raise SettingsError(f"image_ids: {image_ids!r} is one id. To mend it: put it into a list")
        return row_numbers(self._plan, image_ids)

    def row(self, image_id: str, stage: str | None = None, columns: Sequence[str] | None = None) -> dict[str, Any]:
        """One image's row as Python values; see ``docs/output.md`` for its columns.

        Each call looks for the id; for many images `numbers` with ``rows(stage).take`` looks once.

        Args:
            image_id: as in the column of that name; of a stage about other records, as in its first column.
            stage: whose row; None: the first stage that shows something, such as masks, else the last that has begun.
            columns: names; None: all.

        Raises:
            RunError: the image's shard is not committed yet.
        """
        rows = self._main() if stage is None else self.rows(stage)
        return self._row(image_id, rows, self._checked(rows, columns))

    def to_arrow(self, columns: Sequence[str] | None = None, *, stage: str | None = None) -> pa.Table:
        """The rows of a stage as one Arrow table, which memory holds; `reader` gives them bit by bit.

        Args:
            columns: names, in this order; None: all, masks among them.
            stage: whose rows; None: as for `row`.
        """
        return self.reader((self._main() if stage is None else self.rows(stage)).stage, columns).read_all()

    def to_pandas(self, columns: Sequence[str] | None = None, *, stage: str | None = None) -> pd.DataFrame:
        """The rows of a stage as a data frame; arguments as of `to_arrow`.

        Raises:
            SettingsError: pandas is not installed.
        """
        table = self.to_arrow(columns, stage=stage)
        try:
            return table.to_pandas()
        except ImportError as error:
            raise SettingsError(
                "pandas is not installed. To mend it: pip install pandas, or take to_arrow() instead"
            ) from error

    @property
    def scores(self) -> dict[str, dict[str, float]]:
        """The scores of every stage that is published and has some, by their names: single numbers alone.

        `result` has them all, with intervals and those of classes, under ``metrics``.
        """
        from simsam_batch.telling.metrics import shown_metrics

        found: dict[str, dict[str, float]] = {}
        for stage in self.stages:
            published = Ledger(self._out, stage).published()
            alone = [] if published is None else shown_metrics(published["metrics"])[0].metrics
            numbers = {each.name: each.value for each in alone if type(each.value) in (int, float)}
            if numbers:
                found[stage] = numbers
        return found

    @property
    def layers(self) -> list[str]:
        """What `show` can show of this run; the first is what it shows where no layer is named."""
        return list(self._layers())

    def show(
        self, image_id: str, layer: str | None = None, *, stage: str | None = None, side: int = 640
    ) -> PIL.Image.Image:
        """A picture of one image with what was found in it, which a notebook displays by itself.

        An image whose file has gone or changed since has a grey ground in its place, which says so.

        Args:
            image_id: as in the column of that name; of pairs their id.
            layer: ``mask`` (the object), ``labels`` or ``regions`` (the leaves of a tree) over the photograph;
                ``photograph``; ``tree`` (its levels and the tree itself); ``eigenvectors``, the first six after the
                constant one; ``picture`` (restyled); ``matches`` of a pair. None: the first of `layers`.
            stage: whose; None: the first that has the layer.
            side: pixels of the longer side at most; a tree has a size of its own.

        Returns:
            In mode ``RGB``.

        Raises:
            SettingsError: the run has no such image, stage or layer.
            RunError: the image failed, its shard is not committed yet, or nothing was made of it.
        """
        from simsam_batch.drawing.shown import LAYERS, Asked

        if type(side) is not int or side < 1:
            raise SettingsError(f"side: {side!r} is no number of pixels. To mend it: give a whole number from 1 on")
        there = self._layers(stage)
        wanted = next(iter(there), None) if layer is None else layer
        if wanted is None or wanted not in there:
            whose = self.url if stage is None else f"stage {stage} of {self.url}"
            has = f"it has {', '.join(there)}" if there else "nothing of it can be shown"
            raise SettingsError(
                f"layer: {whose} has no layer {wanted!r}{did_you_mean(str(wanted), there) or f'; {has}'}"
            )
        rows = there[wanted]
        return LAYERS[wanted].draw(Asked(rows, self._number(image_id, rows), self._plan, side))

    def _layers(self, stage: str | None = None) -> dict[str, StageRows]:
        """The layers of a stage, or of all that have begun, each with the rows of the first that has it."""
        from simsam_batch.drawing.shown import LAYERS, layers_of

        found: dict[str, StageRows] = {}
        for name in self.stages if stage is None else [stage]:
            rows = self.rows(name)
            for layer in layers_of(rows):
                found.setdefault(layer, rows)
        return {layer: found[layer] for layer in LAYERS if layer in found}

    def _main(self) -> StageRows:
        """The rows that are meant where no stage is named."""
        stages = self.stages
        if not stages:
            raise SettingsError(f"{self.url}: no stage has begun. To mend it: run the command that made the plan")
        return self.rows(main_stage(stages))

    def _repr_html_(self) -> str:
        from simsam_batch.drawing.run_card import SIDE, card

        facts = {"run": self.url, "images": f"{self.images:,}"}
        pictures: list[tuple[str, PIL.Image.Image | None]] = []
        try:
            facts |= {stage: self._said_of(stage) for stage in self.stages}
            for stage, scores in self.scores.items():
                facts[f"{stage}: scores"] = ", ".join(f"{name} {value:.4g}" for name, value in scores.items())
            rows = next(iter(self._layers().values()), None)
            if rows is not None:
                for image_id in rows.take(rows.spread(_PICTURES), [rows.unit])[rows.unit].to_pylist():
                    try:
                        pictures.append((image_id, self.show(image_id, stage=rows.stage, side=SIDE)))
                    except RunError:
                        pictures.append((image_id, None))
        except SimsamError as error:
            facts["fault"] = str(error)
        return card(facts, pictures)

    def _said_of(self, stage: str) -> str:
        """How far a stage is."""
        from simsam_batch.runs.status import stage_status

        ledger = Ledger(self._out, stage)
        published = ledger.published()
        noun = ledger.plan().unit.removesuffix("_id")
        if published is not None:
            return f"done: {counted(published['images'], noun)}, {published['failed']} of them failed"
        status = stage_status(self._out, stage, failures=False)
        return f"{status.done_images} of {counted(status.images, noun)} done"

    def masks(self, stage: str | None = None) -> Iterator[tuple[str, Mask]]:
        """The images of a stage that did not fail, one by one: their ids and their masks at full size, upright.

        Object masks (``segment``) are bool, True on the object. Label maps (``semantic``) are int32, the label of the
        cluster, 0 the background. Those of probes (``probe-maps``) are int32 too, the class, of which 0 is one as any
        other; images that probes were fitted on have none, and are left out. Of trees (``hierarchy``) it is 1 plus the
        place in ``nodes`` of the deepest node that holds the pixel, int32, 0 for none. All are (height, width).

        Args:
            stage: whose masks; None: the first stage that has some.

        Raises:
            SettingsError: the stage has no masks.
        """
        from simsam_batch.results.label_maps import map_rows

        rows = self._with_masks(stage)
        return ((row["image_id"], _mask(row, rows)) for _, row in map_rows(rows) if row["status"] == "ok")

    def mask(self, image_id: str, stage: str | None = None) -> Mask:
        """One image's mask; see `masks`.

        Raises:
            SettingsError: the stage has no masks.
            RunError: the image failed, its shard is not committed yet, or the stage makes no mask of it.
        """
        from simsam_batch.results.label_maps import lacks_map

        rows = self._with_masks(stage)
        row = self.row(image_id, rows.stage)
        self._check_ok(row, "mask")
        if lacks_map(row):
            why = (
                f"is of {row['side']}, which probes are fitted on and no map is made of. To mend it: ask for an image "
                f"whose side is not {row['side']}"
                if row["side"] is not None
                else "has no map, for no probe could be fitted. To mend it: the stage probe-fits says why"
            )
            raise RunError(f"{self.url}: {image_id!r} {why}")
        return _mask(row, rows)

    def objects(self) -> Iterator[tuple[str, list[FoundObject]]]:
        """The images of ``segment`` that did not fail, one by one: their ids and their objects, falling by score.

        Each has ``mask``, ``box`` and ``score``. Of a run with ``--objects`` these are several, or none where nothing
        stands out; of another its one mask with its confidence, if it is not empty.

        Raises:
            SettingsError: the run has no object masks.
        """
        rows = self._with_masks(stages_showing(["objects"])[0])
        found = (row for _, row in rows.each(["image_id", "status", *OF_OBJECTS]) if row["status"] == "ok")
        return ((row["image_id"], objects_of(row)) for row in found)

    def eigenvectors(self, image_id: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The eigenpairs of one image's normalised Laplacian, of the stage ``segment``; other images' are not read.

        Args:
            image_id: as in the column of that name.

        Returns:
            Eigenvalues (K,), ascending, and eigenvectors (K, Hp, Wp) on the patch grid; the first is the constant one.
            They are stored as half precision unless the run had ``--eigenvectors fp32``.

        Raises:
            SettingsError: the run was computed with ``--eigenvectors none``.
            RunError: the image failed, or its shard is not committed yet.
        """
        rows = self._with_eigenvectors()
        row = self._row(image_id, rows, _FOR_EIGENVECTORS)
        self._check_ok(row, "eigenvectors")
        return _eigenpairs(row, rows)

    def all_eigenvectors(self) -> Iterator[tuple[str, NDArray[np.float32], NDArray[np.float32]]]:
        """The images that did not fail, one by one: their ids, eigenvalues and eigenvectors; see `eigenvectors`.

        Raises:
            SettingsError: the run was computed with ``--eigenvectors none``.
        """
        rows = self._with_eigenvectors()
        found = (row for _, row in rows.each(_FOR_EIGENVECTORS) if row["status"] == "ok")
        return ((row["image_id"], *_eigenpairs(row, rows)) for row in found)

    def features(self, image_id: str, names: Sequence[str] | None = None) -> dict[str, NDArray[Any]]:
        """The features of one image, by one range request once its row is found; other images' are not read.

        Args:
            image_id: as in the column of that name.
            names: of arrays, such as ``key-11``, in this order; None: all that the run has kept.

        Returns:
            Arrays in the dtype that they are stored in, float16 or float32, Hp x Wp the patch grid: ``<facet>-<block>``
            (Hp, Wp, C); ``class-<facet>-<block>`` (C,) and ``registers-<facet>-<block>`` (R, C) if they were kept;
            ``norm-<block>`` (Hp, Wp) float32, the length of each patch's token.

        Raises:
            SettingsError: the run has no features, or none of such a name.
            RunError: the image failed, or its shard is not committed yet.
        """
        rows = self._with_features()
        row = self._row(image_id, rows, [*PLACE, "status", "error_type", "error"])
        self._check_ok(row, "features")
        return features_at(self._out, row, names)

    def probe(
        self,
        probe: Literal["linear", "knn", "kmeans", "ward"] | None = None,
        features: str | None = None,
        *,
        fraction: float | None = None,
        seed: int = 0,
        clusters: int | None = None,
        weights: str | None = None,
        device: Literal["auto", "cpu", "cuda"] = "auto",
    ) -> ProbeSegmenter:
        """A fitted probe of ``simsam probe`` as a `torch.nn.Module` that segments new images with its network.

        ``module(pictures)`` takes (3, H, W) or (B, 3, H, W) uint8 and gives (H, W) or (B, H, W) int64 class ids;
        ``module.classes`` are their names, ``module.scores(pictures)`` the scores on the patch grid. See
        `simsam_batch.results.probe_segmenter.ProbeSegmenter`.

        Args:
            probe: which; None: the first that is fitted.
            features: what it sees, such as ``key-11``; None: the first features that it is fitted to.
            fraction: share of the train images that it was fitted with; None: the largest.
            seed: which draw of that share, or fit of what is fitted by chance.
            clusters: of kmeans and ward how many; None: the first number fitted; 0: as many as classes.
            weights: file or URL of the network's weights; None: where the run found them.
            device: what computes the features.

        Raises:
            SettingsError: this is no finished run of ``simsam probe``, it has no such probe, or the weights are others.
        """
        from simsam_batch.results.probe_segmenter import ProbeSegmenter
        from simsam_batch.stages.probe_apply.settings import FittedProbe

        wanted = FittedProbe(probe=probe, features=features, fraction=fraction, seed_of_fit=seed, clusters=clusters)
        return ProbeSegmenter(self._out, wanted, weights=weights, device=device)

    def as_torch_dataset(
        self, names: Sequence[str] | None = None, *, transform: Callable[[dict[str, Any]], Any] | None = None
    ) -> FeatureDataset:
        """The features of all images that did not fail, as a `torch.utils.data.Dataset` that a DataLoader takes.

        ``dataset[i]`` is a dictionary: ``image_id``, and a tensor for every array, see `features`; one range request
        reads it. It holds a table of ids and places, below 100 bytes an image. Images of different sizes have grids of
        different sizes, which torch does not stack: give the DataLoader ``batch_size=None`` or a ``collate_fn``, or
        bring items to one size by ``transform``.

        Args:
            names: of arrays; None: all.
            transform: is given each dictionary, and what it returns is the item.

        Raises:
            SettingsError: the run has no features, or none of such a name.
            RunError: no image is there yet.
        """
        from simsam_batch.results.torch_dataset import FeatureDataset

        return FeatureDataset(self._with_features(), names, transform)

    def flags(self, stage: str | None = None, *, file: str | None = None) -> pa.Table:
        """What reviewers have said of rows in ``simsam view``: of every reviewer and row what was said last.

        Args:
            stage: of whose rows; None: of any.
            file: a local file with further flags, as ``simsam view --flags`` writes it.

        Returns:
            Columns ``time`` (seconds since 1970), ``reviewer``, ``stage``, ``row``, ``image_id``, ``content_digest``,
            ``verdict`` (``bad``, ``good``, ``unsure``), ``reasons``, ``note``, and ``stale``: what was judged has been
            replaced since.

        Raises:
            SettingsError: there is no such file.
        """
        from simsam_batch.results.flags import TABLE, as_records, digests_of, read_flags

        found = list(read_flags(self._out, file).each(stage))
        return pa.Table.from_pylist(as_records(found, digests_of(self._out, found)), TABLE)

    def view(self, other: str | None = None, **options: Any) -> View:
        """Look at the run in a browser, and at a second one beside it: starts ``simsam view``, which ends with Python.

        In a notebook the returned object shows the link to open.

        Args:
            other: folder of the second run.
            options: of ``simsam view``, such as ``port=9000`` or ``reviewer="ann"``.

        Raises:
            SettingsError: it could not start; the message is the command's.
        """
        from simsam_batch.results.viewing import View

        return View(self._url, other, options)

    def _row(self, image_id: str, rows: StageRows, columns: Sequence[str]) -> dict[str, Any]:
        """An image's row; columns that the stage has not, as in runs of an older release, are left out."""
        found: dict[str, Any] = rows.take([self._number(image_id, rows)], columns).to_pylist()[0]
        return found

    def _number(self, image_id: str, rows: StageRows) -> int:
        # a stage about other records than images has a plan of its own
        plan = self._plan if rows.unit == self._plan.unit else Ledger(self._out, rows.stage).plan()
        return row_numbers(plan, [image_id])[0]

    def _first_of(self, wanted: Sequence[str]) -> StageRows | None:
        """The rows of the first of some stages that has begun; what has been opened before needs no further look."""
        names = [name for name in wanted if name in self._opened] or [name for name in self.stages if name in wanted]
        return self.rows(names[0]) if names else None

    def _with_features(self) -> StageRows:
        keeping = stages_with_features()
        rows = self._first_of(keeping)
        if rows is not None:
            return rows
        commands = " or ".join(f"simsam {command_of(name).name} IMAGES OUT" for name in keeping)
        raise SettingsError(f"{self.url} has no features. To mend it: {commands} computes some")

    def _with_eigenvectors(self) -> StageRows:
        keeping = [name for name in stage_names() if (what := shown(name)) is not None and what.eigenvectors]
        rows = self._first_of(keeping)
        if rows is None:
            raise SettingsError(
                f"{self.url} has no stage with eigenvectors. To mend it: open the OUT of the command segment"
            )
        if rows.settings["eigenvectors"] == "none":
            raise SettingsError(
                f"{self.url} was computed with --eigenvectors none. To mend it: compute the images again in another "
                "OUT, with --eigenvectors fp16"
            )
        return rows

    def _with_masks(self, stage: str | None) -> StageRows:
        stages = self.stages
        for name in stages if stage is None else [stage]:
            rows = self.rows(name)
            if shown(name) is not None:
                return rows
        if stage is not None:
            raise SettingsError(f"stage: {stage} of {self.url} has no masks. To mend it: name no stage")
        having = [name for name in stage_names() if shown(name) is not None]
        raise SettingsError(
            f"{self.url} has no masks yet: {', '.join(stages) or 'no stage'} has begun. To mend it: wait for a stage "
            f"that has some: {', '.join(having)}"
        )

    def _checked(self, rows: StageRows, columns: Iterable[str] | None) -> list[str]:
        known: list[str] = rows.schema.names
        names = known if columns is None else list(columns)
        missing = [name for name in names if name not in known]
        if missing:
            raise SettingsError(
                f"columns: the stage {rows.stage} of {self.url} has no {', '.join(missing)}; it has {', '.join(known)}"
            )
        return names

    def _check_ok(self, row: Mapping[str, Any], what: str) -> None:
        if row["status"] != "ok":
            raise RunError(
                f"{self.url}: {row['image_id']!r} failed, so that it has no {what} ({row['error_type']}: "
                f"{row['error']}). To mend it: simsam retry tries failed images again"
            )


def _eigenpairs(row: Mapping[str, Any], rows: StageRows) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    vectors = grid_eigenvectors(row, rows)
    if vectors is None:
        raise RunError(
            f"{rows.out.url}: {row['image_id']!r} has no eigenvectors. To mend it: restore its file of arrays"
        )
    return np.array(row["eigenvalues"], np.float32), vectors


def _mask(row: Mapping[str, Any], rows: StageRows) -> Mask:
    from simsam_batch.results.label_maps import kind_of, label_map

    found = label_map(row, rows.settings, kind_of(rows))
    return found.astype(np.bool_) if kind_of(rows) == "objects" else found
