"""The ``simsam`` command: parse, call, print. Every operation is importable from `simsam_batch.operations`."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import click

from simsam_batch import __version__
from simsam_batch.errors import SimsamError, did_you_mean
from simsam_batch.help_pages import HelpfulCommand, SettingOption, write_examples
from simsam_batch.plain_text import log_plainly, plain
from simsam_batch.stages.registry import COMMANDS, Command

if TYPE_CHECKING:
    from simsam_batch.settings import RunSettings

_EXIT_CODES = "Exit codes: 0 done; 1 could not run; 3 more images failed than --allow-failed; 130 interrupted."
EXIT_COULD_NOT_RUN = 1
EXIT_TOO_MANY_FAILED = EXIT_DAMAGED = EXIT_INCOMPLETE = 3
EXIT_INTERRUPTED = 130


def _options(model: type[RunSettings], names: Sequence[str]) -> list[click.Parameter]:
    from simsam_batch.settings import allowed

    options: list[click.Parameter] = []
    for name in names:
        field = model.model_fields[name]
        flag = "--" + name.replace("_", "-")
        group, default = model.section_of(name), field.default
        shown = "" if default in (None, ()) else f"  [{default}]"
        if isinstance(default, bool):
            options.append(
                SettingOption(
                    f"{flag}/--no-{flag[2:]}", name, group=group, default=None, help=f"{field.description}{shown}"
                )
            )
            continue
        choices, many = allowed(field), isinstance(default, tuple)
        metavar = choices.replace(" ", "") if " | " in choices else {"a": "N", "t": "TEXT"}[choices[0]]
        shown = f"  [{','.join(map(str, default))}]" if many and default else shown
        options.append(
            SettingOption(
                flag,
                name,
                group=group,
                metavar="NAME" if many else metavar,
                multiple=many,
                default=None,
                help=f"{field.description}{shown}",
            )
        )
    return options


def _general_options(presets: Sequence[str]) -> list[click.Parameter]:
    general = {"group": "General"}
    options: list[click.Parameter] = [
        SettingOption("--config", metavar="FILE", help="YAML file of settings; flags win over it", **general),
        SettingOption("--print-config", is_flag=True, help="print the resolved settings and stop", **general),
        SettingOption("--changed", is_flag=True, help="with --print-config: those that are no defaults", **general),
    ]
    if not presets:
        return options
    help_of_presets = "a published method's whole set of settings"
    return [SettingOption("--preset", metavar="|".join(presets), help=help_of_presets, **general), *options]


def _compute(command: Command, *, images: tuple[str, ...] = (), out: str | None = None, **given: Any) -> int:
    from simsam_batch.settings import read_yaml, resolve

    config, print_config, changed = (given.pop(name) for name in ("config", "print_config", "changed"))
    flags = {name: value for name, value in given.items() if value is not None and value != ()}
    settings = resolve(command.settings(), flags, read_yaml(config) if config else None, f"--config {config}")
    if print_config:
        import yaml

        held = settings.written()
        held = {name: held[name] for name in settings.changed() if name in held} if changed else held
        click.echo(yaml.safe_dump(held, sort_keys=False) if held else "", nl=False)
        return 0
    if changed:
        raise click.UsageError("--changed says what --print-config prints: give both, or none of them")
    if out is None or (not images and settings.given_images):
        name, arguments = command.name, [each.upper() for each in settings.arguments()]
        needs = " and ".join(filter(None, [", ".join(arguments[:-1]), arguments[-1]]))
        msg = f"{name} needs {needs}: simsam {name} {' '.join(arguments)} [OPTIONS]; see simsam {name} --help"
        raise click.UsageError(msg)
    from simsam_batch import operations
    from simsam_batch.telling.console import reporter

    with reporter(settings.log_format, quiet=settings.quiet) as report:
        result = operations.run(command.name, images or None, out, settings, report)
    if result is None:
        return 0
    if not settings.quiet and settings.log_format == "text":
        from simsam_batch.closing import closing_lines

        _say(closing_lines(out, result))
    tolerated = settings.allow_failed * result["images"]
    return EXIT_TOO_MANY_FAILED if result["failed"] > tolerated else 0


def _demo(out: str) -> int:
    from simsam_batch.demo import run_demo

    run_demo(out)
    return 0


def _computing(command: Command) -> click.Command:
    """The command line of a command that computes."""
    model = command.settings()
    names = model.arguments()
    # a shell makes several paths of a pattern that is not quoted
    arguments: list[click.Parameter] = [
        click.Argument([name], required=False, nargs=-1 if name == "images" else 1) for name in names
    ]
    options = _options(model, model.given_by_name())
    return HelpfulCommand(
        name=command.name,
        callback=partial(_compute, command),
        params=[*arguments, *_general_options(list(model.presets)), *_refused(model, model.not_given()), *options],
        help=f"{command.about}\n\n{_EXIT_CODES}",
        examples=command.examples,
        most_used=command.most_used,
    )


def _refused(model: type[RunSettings], names: Sequence[str]) -> list[click.Parameter]:
    """Options that cannot be given; they are taken, so that people are told why, and not that there is none."""
    options = _options(model, names)
    for option in options:
        option.hidden = True  # type: ignore[attr-defined]
    return options


def _status(out: str, *, as_json: bool, quick: bool) -> int:
    from simsam_batch import operations
    from simsam_batch.telling.status import status_lines

    found = operations.status(out, failures=not quick)
    _say(_json(found).split("\n") if as_json else status_lines(found))
    return 0


def _json(found: Any) -> str:
    import json

    return json.dumps(found, indent=1)


def _status_command() -> click.Command:
    return HelpfulCommand(
        name="status",
        examples=(
            ("simsam status out", "how far it is, and how long it will take"),
            ("simsam status s3://bucket/run --quick", "by listings alone"),
            ("simsam status out --json", "for programs"),
        ),
        callback=_status,
        params=[
            click.Argument(["out"]),
            click.Option(["--json", "as_json"], is_flag=True, help="print one JSON object"),
            click.Option(["--quick"], is_flag=True, help="listings only; failed images are not counted"),
        ],
        help="Say how far a run is: what is done, pending and failed, how fast it goes, how long it will take.\n\n"
        "Reads nothing but OUT, so that it works from another machine and while the run goes on.",
    )


def _verify(out: str, *, as_json: bool, **orphans: Any) -> int:
    from simsam_batch import operations
    from simsam_batch.telling.bar import Bar
    from simsam_batch.telling.verify import verify_lines

    with Bar(disable=as_json) as bar:
        tasks: dict[str, Any] = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done)

        found = operations.verify(out, **orphans, on_shard=show)
    _say(_json(found.as_record()).split("\n") if as_json else verify_lines(found))
    return EXIT_DAMAGED if found.damaged else 0


def _verify_command() -> click.Command:
    return HelpfulCommand(
        name="verify",
        examples=(
            ("simsam verify out", "all that is damaged or missing, and what nothing reads"),
            ("simsam verify out --delete-orphans", "and clear away what nothing reads, if a day old"),
        ),
        callback=_verify,
        params=[
            click.Argument(["out"]),
            click.Option(["--delete-orphans"], is_flag=True, help="delete files that no manifest names, if old enough"),
            click.Option(
                ["--orphan-hours"],
                type=click.FloatRange(0),
                default=24.0,
                show_default=True,
                help="how old; those of a run at work are minutes old",
            ),
            click.Option(
                ["--nobody-at-work"],
                is_flag=True,
                help="delete them also while shards are started and not committed, as a killed command leaves them",
            ),
            click.Option(["--json", "as_json"], is_flag=True, help="print one JSON object"),
        ],
        help="Compare all that a run holds with its manifests and its plan, and list what nothing reads.\n\n"
        "Every file is read and hashed. Shards still to be done are no damage. Exit codes: 0 all is as it was "
        "committed; 1 could not run; 3 something is damaged or missing, named with what to do.",
    )


def _doctor(out: str | None, *, single_driver: bool, **network: str | None) -> int:
    from simsam_batch import doctor

    fit = True
    for check in doctor.checks(out, single_driver=single_driver, **network):
        _say(doctor.lines(check))
        fit &= check.ok
    return 0 if fit else EXIT_COULD_NOT_RUN


def _doctor_command() -> click.Command:
    return HelpfulCommand(
        name="doctor",
        examples=(
            ("simsam doctor", "this machine: packages, GPU, solvers, decoders"),
            ("simsam doctor s3://bucket/run", "and whether a run can be written there"),
            ("simsam doctor --backbone dino_vits16 --weights dino.safetensors", "and with this network"),
        ),
        callback=_doctor,
        params=[
            click.Argument(["out"], required=False),
            click.Option(["--backbone"], metavar="NAME", help="load this one  [dino_vits16]"),
            click.Option(["--weights"], metavar="FILE", help="its weights"),
            click.Option(
                ["--checkpoint-part"],
                type=click.Choice(["auto", "teacher", "student"]),
                help="which network of FILE, if it has several  [auto]",
            ),
            click.Option(["--single-driver"], is_flag=True, help="do not ask OUT for conditional create"),
        ],
        help="Try out what a run needs: packages, GPU, solvers, decoders, engines, weights and, with OUT, storage.\n\n"
        "Each check is ok or comes with the mend; what is optional and absent is no failure. In OUT two small files "
        "are written, and deleted again. Exit codes: 0 fit for a run; 1 something failed.",
    )


def _retry(out: str, **given: Any) -> int:
    from simsam_batch import operations
    from simsam_batch.settings import RunSettings, resolve
    from simsam_batch.telling.console import reporter

    changes = {name: value for name, value in given.items() if value is not None and value != ()}
    chosen = resolve(RunSettings, {n: v for n, v in changes.items() if n in RunSettings.fields_of("operation")})
    with reporter(chosen.log_format, quiet=chosen.quiet) as report:
        results = operations.retry(out, changes, report)
    too_many = any(result["failed"] > chosen.allow_failed * result["images"] for result in (results or {}).values())
    return EXIT_TOO_MANY_FAILED if too_many else 0


def _retry_command() -> click.Command:
    from simsam_batch.settings import SpectralSettings

    about_images = ("check_input", "extend", "prune")
    operation = [name for name in SpectralSettings.fields_of("operation") if name not in about_images]
    names = [*SpectralSettings.limits(), *operation]
    others = {
        name: model
        for model in (each.settings() for each in COMMANDS)
        for kind in ("result", "input")
        for name in model.fields_of(kind)
    }
    refused = [option for name, model in others.items() if name not in names for option in _refused(model, [name])]
    return HelpfulCommand(
        name="retry",
        callback=_retry,
        params=[click.Argument(["out"]), *_options(SpectralSettings, names), *refused],
        examples=(
            ("simsam retry out", "the failed images, as the run was"),
            ("simsam retry out --max-pixels 400000000", "with another limit"),
            ("simsam retry out --weights vit.safetensors", "where the weights are now"),
        ),
        most_used=(
            "max_pixels",
            "max_bytes",
            "max_patches",
            "decode_seconds",
            "weights",
            "workers",
            "device",
            "engine",
        ),
        help="Try the failed images of a run again; what was good stays as it is.\n\n"
        "Limits may be others than those of the run, such as --max-pixels; the manifests record them. Limits and "
        "weights that are not given are those of the run. Results are published anew. After simsam semantic, regions "
        "are tried first, and the clusters are not fitted again.\n\n"
        f"{_EXIT_CODES}",
    )


def _demo_command() -> click.Command:
    return HelpfulCommand(
        name="demo",
        examples=(
            ("simsam demo", "into demo-output"),
            ("simsam demo out", "into a folder of yours"),
        ),
        callback=_demo,
        params=[click.Argument(["out"], required=False, default="demo-output")],
        help="Segment photographs that ship with scikit-image into OUT (default: demo-output), with no download.",
    )


def _score(
    predictions: str,
    *,
    json_file: str | None,
    classes: str | None,
    resize_prediction: str,
    pairs: str | None,
    root: str | None,
    split: str | None,
    **given: Any,
) -> int:
    from simsam_batch import operations
    from simsam_batch.results.matches_scoring import PairOptions
    from simsam_batch.results.scoring import ScoreOptions, class_names
    from simsam_batch.telling.console import reporter
    from simsam_batch.telling.metrics import metric_lines

    names = None if classes is None else class_names(classes)
    options: ScoreOptions | PairOptions
    options = ScoreOptions(classes=names, resize_prediction=resize_prediction == "nearest", **given)
    if pairs is not None:
        if options != ScoreOptions():
            raise click.UsageError("--pairs goes with --root and --split alone: matches are scored at every threshold")
        options = PairOptions(pairs=pairs, root=root, split=split)
    elif root is not None or split is not None:
        raise click.UsageError("--root and --split are of --pairs: give it too")
    with reporter("text", quiet=True) as report:
        result = operations.score(predictions, options, report, json_file)
    _say(metric_lines(result["metrics"]))
    return 0


def _score_command() -> click.Command:
    def option(*names: str, **attributes: Any) -> click.Option:
        return click.Option(list(names), **attributes)

    return HelpfulCommand(
        name="score",
        examples=(
            ("simsam score out", "a run, with the truth it was planned with"),
            ("simsam score masks --truth truth", "a folder of masks that any tool wrote"),
            ("simsam score labels --truth ids --kind semantic --classes 21", "a folder of label maps"),
            ("simsam score several --truth instances.json", "objects, as COCO scores them"),
        ),
        most_used=("truth", "boxes", "stage", "kind", "classes", "matching", "ignore_label", "protocol", "json_file"),
        callback=_score,
        params=[
            click.Argument(["predictions"]),
            option(
                "--truth",
                metavar="FOLDER|FILE",
                help="truth masks or class id images, by sub-folder and stem; or COCO's .json file of instances",
            ),
            option("--boxes", metavar="FOLDER|FILE", help="VOC's XML files or COCO's .json file, for CorLoc instead"),
            option(
                "--stage", metavar="NAME", help="of a run, whose results are scored  [the first with masks or labels]"
            ),
            option("--kind", type=click.Choice(["object", "semantic"]), help="what a folder holds  [object]"),
            option("--classes", metavar="FILE|N", help="names of the true classes, one a line, or how many there are"),
            option("--clusters", type=click.IntRange(1), help="label maps hold 0 and clusters 1 to N, not classes"),
            option(
                "--matching",
                type=click.Choice(["none", "hungarian", "majority"]),
                help="of clusters to classes  [hungarian for as many labels as classes, else majority]",
            ),
            option("--ignore-label", type=int, help="id in the truth that is not scored"),
            option(
                "--protocol",
                type=click.Choice(["semantic", "voc-semantic", "detection"]),
                help="voc-semantic: VOC's 21 classes, 255 not scored, all classes count; detection: AP and AR of "
                "objects as COCO defines them, whatever their class  [semantic; with instances detection]",
            ),
            option(
                "--resize-prediction",
                type=click.Choice(["none", "nearest"]),
                default="none",
                show_default=True,
                help="bring predictions of a folder to the truth's size",
            ),
            option("--center-crop/--no-center-crop", default=None, help="score central squares  [as the run was]"),
            option("--pairs", metavar="FILE|NAME:ROOT", help="of matches: the pairs, as for simsam correspond"),
            option("--root", metavar="FOLDER", help="folder that paths in --pairs start from  [that of the file]"),
            option("--split", metavar="NAME", help="of a set of pairs by name"),
            option("--json", "json_file", metavar="FILE", help="write the scores there  [OUT/results/score-*.json]"),
        ],
        help="Compare a finished run, or masks or matches that any tool wrote, with truth.\n\n"
        "PREDICTIONS is a run's OUT or a folder of image files: object masks of 0 and 1 or 0 and 255, or maps of class "
        "or cluster ids; with --pairs a file of matches, CSV with pair_id, name, x and y, or JSON. Without --truth and "
        "--boxes, a run is scored with the truth it was planned with. Scores go to standard output.",
    )


def _compare(
    runs: tuple[str, ...],
    *,
    to: str | None,
    format: str,  # noqa: A002
    metric: tuple[str, ...],
    name: tuple[str, ...],
    **given: Any,
) -> int:
    from simsam_batch import operations
    from simsam_batch.results.comparing import CompareOptions
    from simsam_batch.telling.compare import FORMATS
    from simsam_batch.telling.console import reporter

    options = CompareOptions(metrics=metric, names=name, **given)
    with reporter("text", quiet=True) as report:
        found = operations.compare(runs, options, report, to)
    # tables are for programs too, and escaped as theirs ask; what is shown on a terminal steers none
    text = _json(found) if format == "json" else FORMATS[format](found)
    click.echo(text.rstrip("\n"))
    return 0


def _compare_command() -> click.Command:
    def option(*names: str, **attributes: Any) -> click.Option:
        return click.Option(list(names), **attributes)

    return HelpfulCommand(
        name="compare",
        examples=(
            ("simsam compare a b", "by the scores of their images"),
            ("simsam compare a b --truth masks", "masks that have not been scored"),
            ("simsam compare a b --to compared", "tables and a page in a folder"),
            ("simsam compare a b c --format markdown", "a table to paste"),
        ),
        callback=_compare,
        params=[
            click.Argument(["runs"], nargs=-1, metavar="RUN RUN [RUN]..."),
            option("--stage", metavar="NAME", help="whose rows  [the first whose images have scores]"),
            option("--metric", multiple=True, metavar="NAME", help="a score or column of numbers; repeatable  [all]"),
            option(
                "--by",
                metavar="REGEX|COLUMN",
                help="what images belong to, such as the video: the first group of the match in image_id, or a column "
                "that the runs have kept; groups are drawn as a whole and count once",
            ),
            option("--truth", metavar="FOLDER", help="compare masks or label maps with it  [scores in the rows]"),
            option("--name", multiple=True, metavar="NAME", help="of each run in turn; repeatable  [its folder]"),
            option(
                "--differing",
                type=click.IntRange(0, 100),
                default=10,
                show_default=True,
                metavar="N",
                help="how many of the images that differ most are shown for each run",
            ),
            option(
                "--format",
                type=click.Choice(["text", "markdown", "csv", "latex", "json"]),
                default="text",
                show_default=True,
                help="of what is printed",
            ),
            option("--to", metavar="PATH", help="folder for tables, differences and a page with pictures: path or URL"),
        ],
        help="Compare runs of one command with the first of them, image by image, with intervals.\n\n"
        "RUN is the OUT of a run, finished or not; all are over the same images, joined by image_id. Shown are the "
        "means, the paired difference to the first RUN with a 95 % bootstrap interval, on how many images each is "
        "better and worse, the images that differ most, and the settings that do.",
    )


def _matrix(file: str, *, format: str, log_format: Literal["text", "json"], quiet: bool) -> int:  # noqa: A002
    from simsam_batch.matrix import all_tables, read_matrix, run_matrix
    from simsam_batch.telling.compare import comparison_lines
    from simsam_batch.telling.console import reporter

    matrix = read_matrix(file)
    with reporter(log_format, quiet=quiet) as report:
        done = run_matrix(matrix, report)
    if format == "json":
        _say(_json(done).split("\n"))
    elif format == "text":
        for dataset, record in done["comparisons"].items():
            _say(["", dataset, *comparison_lines(record)])
    elif done["comparisons"]:
        suffix = {"markdown": "md", "csv": "csv", "latex": "tex"}[format]
        click.echo(all_tables(done["comparisons"])[f"all.{suffix}"].rstrip("\n"))
    broken = [f"{each['method']} on {each['dataset']}: {each['error']}" for each in done["cells"] if each["error"]]
    broken += [f"{dataset} is not compared: {why}" for dataset, why in done["not_compared"].items()]
    if broken:
        _say(
            [f"simsam: {len(broken)} of the matrix could not be done; run the same command again to go on", *broken],
            err=True,
        )
        return EXIT_COULD_NOT_RUN
    return EXIT_TOO_MANY_FAILED if any(each["too_many_failed"] for each in done["cells"]) else 0


def _matrix_command() -> click.Command:
    return HelpfulCommand(
        name="matrix",
        examples=(
            ("simsam matrix methods.yaml", "runs what is missing, then prints the tables"),
            ("simsam matrix methods.yaml --format latex", "tables to paste"),
        ),
        callback=_matrix,
        params=[
            click.Argument(["file"]),
            click.Option(
                ["--format"],
                type=click.Choice(["text", "markdown", "csv", "latex", "json"]),
                default="text",
                show_default=True,
                help="of what is printed",
            ),
            click.Option(
                ["--log-format"], type=click.Choice(["text", "json"]), default="text", help="of progress  [text]"
            ),
            click.Option(["--quiet"], is_flag=True, help="of progress say only which cell it is at"),
        ],
        help="Run several methods on several datasets, and print a table of them for each dataset.\n\n"
        "FILE is YAML with 'out', a folder; 'methods', settings by a name; 'datasets', by a name 'images' and settings "
        "such as truth; and if need be 'command' [segment] and 'settings' of all. Run the same command again to go on: "
        "what is finished is not computed anew. The tables are in OUT/tables.\n\n"
        f"{_EXIT_CODES}",
    )


def _export(
    out: str,
    *,
    to: str,
    format: str,  # noqa: A002
    stage: str | None,
    limit: int | None,
    nodes: Literal["leaves", "all"] | None,
    min_score: float | None,
    max_side: int | None,
    crop: bool,
    polygons: bool,
    relative_uris: str | None,
    flagged: Sequence[str],
    not_flagged: Sequence[str],
    flags: str | None,
) -> int:
    from simsam_batch import operations
    from simsam_batch.stages.registry import stages_with_matches
    from simsam_batch.storage import redact
    from simsam_batch.telling.bar import Bar
    from simsam_batch.telling.export import export_lines, mend_of

    with Bar() as bar:
        task = bar.add_task("images", total=None)
        done = operations.export(
            out,
            to,
            format=format,
            stage=stage,
            limit=limit,
            nodes=nodes,
            min_score=min_score,
            max_side=max_side,
            crop=crop,
            polygons=polygons,
            relative_uris=relative_uris,
            flagged=flagged or None,
            not_flagged=not_flagged or None,
            flags=flags,
            on_image=lambda count, total: bar.update(task, completed=count, total=total),
        )
    noun = "pair" if done["stage"] in stages_with_matches() else "image"
    _say(export_lines(done, redact(to), noun))
    if done["complete"]:
        return 0
    _say([f"simsam: {mend_of(done)}"], err=True)
    return EXIT_INCOMPLETE


def _export_command() -> click.Command:
    from simsam_batch.report.exports.formats import FORMATS
    from simsam_batch.results.flags import VERDICTS

    formats = "".join(f"\n  {name:<15}{each.about}" for name, each in FORMATS.items())
    return HelpfulCommand(
        name="export",
        examples=(
            ("simsam export out --format cutout --to objects", "objects without what is around them"),
            ("simsam export out --format contact-sheet --to sheet", "all images on a page"),
            ("simsam export out --format coco --to coco", "COCO's JSON of instances"),
            ("simsam export out --format png --to good --not-flagged bad", "masks, without what was flagged"),
        ),
        most_used=("to", "format", "stage", "limit", "min_score", "max_side", "crop", "flagged", "not_flagged"),
        callback=_export,
        params=[
            click.Argument(["out"]),
            click.Option(
                ["--to"], metavar="PATH", required=True, help="folder for the files: a path or any fsspec URL"
            ),
            click.Option(
                ["--format"], type=click.Choice(list(FORMATS)), required=True, help="`--help-all` says what each is"
            ),
            click.Option(["--stage"], metavar="NAME", help="of the run  [the first that the format can be made of]"),
            click.Option(["--limit"], type=click.IntRange(1), metavar="N", help="only the first N images"),
            click.Option(["--nodes"], type=click.Choice(["leaves", "all"]), help="of region trees as coco  [leaves]"),
            click.Option(
                ["--min-score"],
                type=float,
                metavar="X",
                help="of objects as coco, cutout, yolo: of this score  [all]",
            ),
            click.Option(
                ["--max-side"],
                type=click.IntRange(1),
                metavar="PIXELS",
                help="of cutout and overlay: their longer side at most  [that of the image]",
            ),
            click.Option(["--crop"], is_flag=True, help="cutouts end where the object does  [size of the image]"),
            click.Option(["--polygons"], is_flag=True, help="coco with outer rings as polygons  [run lengths]"),
            click.Option(
                ["--relative-uris"],
                metavar="ROOT",
                help="coco and json with URIs relative to this folder, above all images  [as in the run]",
            ),
            click.Option(
                ["--flagged"],
                type=click.Choice(VERDICTS),
                multiple=True,
                help="only images that somebody has flagged so in simsam view; may be repeated",
            ),
            click.Option(
                ["--not-flagged"],
                type=click.Choice(VERDICTS),
                multiple=True,
                help="only images that nobody has flagged so; may be repeated",
            ),
            click.Option(["--flags"], metavar="FILE", help="with these flags too, of simsam view --flags FILE"),
        ],
        help="Hand the results of a run on in a format that others read, or as pictures to look at.\n\n"
        f"\b\nFormats:{formats}\n\n"
        "Of a run in progress the images committed so far are written. PATH must be empty, or hold an earlier export "
        "of the same content, which is written again. Exit codes: 0 done; 1 could not run; 3 no image is written, or "
        "some are missing whose files have gone or changed; 130 interrupted (run the same command again).",
    )


def _report(out: str, *, samples: int, stage: str | None, thumbnails: bool) -> int:
    from simsam_batch import operations

    _say([operations.report(out, samples=samples, stage=stage, thumbnails=thumbnails)])
    return 0


def _report_command() -> click.Command:
    return HelpfulCommand(
        name="report",
        examples=(
            ("simsam report out", "a page with scores, pictures and failures"),
            ("simsam report out --samples 24", "with more pictures"),
        ),
        callback=_report,
        params=[
            click.Argument(["out"]),
            click.Option(
                ["--samples"],
                type=click.IntRange(1, 100),
                default=8,
                show_default=True,
                metavar="N",
                help="images of each gallery, at most",
            ),
            click.Option(["--stage"], metavar="NAME", help="only what concerns this stage of the run  [all]"),
            click.Option(["--thumbnails"], is_flag=True, help="pages of all images too, the first 10,000 of a stage"),
        ],
        help="Write a page about a run to OUT/report/index.html, for a browser, and print where it is.\n\n"
        "It shows scores, distributions, pictures, failures, times and settings; of a run in progress, of what is "
        "committed so far. Pictures are drawn from the images, which must still be readable. OUT/report/card.yaml is "
        "made once for what people know of the images; fill it in and run the command again.",
    )


def _view(out: str, other: str | None, *, allow_host: Sequence[str], **given: Any) -> int:
    from simsam_batch import operations

    def say(line: str) -> None:
        _say([line])
        sys.stdout.flush()

    # Ctrl-C is how it ends
    with suppress(KeyboardInterrupt):
        operations.view(out, other, say=say, allow_hosts=allow_host, debug="--debug" in sys.argv, **given)
    return 0


def _view_command() -> click.Command:
    return HelpfulCommand(
        name="view",
        examples=(
            ("simsam view out", "prints a link; Ctrl-C ends it"),
            ("simsam view out other", "two runs, image by image"),
            ("simsam view s3://bucket/run", "from object storage, going on or finished"),
        ),
        callback=_view,
        params=[
            click.Argument(["out"]),
            click.Argument(["other"], required=False),
            click.Option(["--port"], type=click.IntRange(1, 65535), metavar="N", help="[8765, or the next free one]"),
            click.Option(["--host"], default="127.0.0.1", show_default=True, help="another one needs a certificate"),
            click.Option(["--certificate"], metavar="FILE", help="for TLS, with --key"),
            click.Option(["--key"], metavar="FILE", help="of the certificate"),
            click.Option(
                ["--allow-host"],
                metavar="NAME",
                multiple=True,
                help="a further name under which browsers may call it, such as a proxy's; may be repeated",
            ),
            click.Option(["--flags"], metavar="FILE", help="local file for what is flagged  [OUT/flags]"),
            click.Option(["--reviewer"], metavar="NAME", help="who flags  [the login name]"),
            click.Option(["--live"], is_flag=True, help="compare any patch and any point, by features; loads torch"),
            click.Option(["--weights"], metavar="FILE", help="with --live: of the run's network, if none are stored"),
            click.Option(["--device"], type=click.Choice(["auto", "cpu", "cuda"]), default="auto", show_default=True),
            click.Option(["--memory"], metavar="SIZE", help="for the columns of a stage, such as 500MB  [1GB]"),
            click.Option(["--until-stdin-closes"], is_flag=True, hidden=True),
        ],
        help="Look at a run in a browser: filter and sort its images, click a patch, walk a tree, flag what is bad.\n\n"
        "OUT may be a run in progress and on object storage; with OTHER the two are compared. Prints a link to open, "
        "and the ssh command that brings it to another machine. Nothing is written but OUT/flags. Ctrl-C ends it.",
    )


_BEGIN = (
    ("simsam demo", "try it out; no download"),
    ("simsam segment photos out", "a mask for every image in a folder"),
    ("simsam view out", "look at the run in a browser"),
)
_BUILT = tuple[Callable[[], click.Command], str]
_COMMANDS: Mapping[str, Mapping[str, _BUILT]] = {
    "Compute": {
        **{each.name: (partial(_computing, each), each.summary) for each in COMMANDS},
        "matrix": (_matrix_command, "Run methods by datasets, with a table for each."),
        "demo": (_demo_command, "Segment photographs that ship with scikit-image."),
    },
    "Look at results": {
        "view": (_view_command, "Look at a run in a browser, and flag what is bad."),
        "report": (_report_command, "Write an HTML page about a run, with pictures."),
        "score": (_score_command, "Compare a run, or masks of any tool, with truth."),
        "compare": (_compare_command, "Compare runs image by image, with intervals."),
        "export": (_export_command, "Hand results on as files that others read."),
    },
    "Keep in order": {
        "status": (_status_command, "Say how far a run is, from its storage alone."),
        "retry": (_retry_command, "Try the failed images of a run again."),
        "verify": (_verify_command, "Hash all that a run holds; list what nothing reads."),
        "doctor": (_doctor_command, "Try out what a run needs on this machine."),
    },
}


class _Commands(click.Group):
    """Builds a command only when it is asked for, so that ``simsam --help`` imports nothing heavy."""

    summaries: ClassVar[Mapping[str, _BUILT]] = {
        name: built for group in _COMMANDS.values() for name, built in group.items()
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.summaries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return self.summaries[cmd_name][0]() if cmd_name in self.summaries else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        # some commands have names of two words, of which the first alone is another command
        words = 2 if " ".join(args[:2]) in self.summaries else 1
        name = " ".join(args[:words])
        if name not in self.summaries:
            ctx.fail(f"there is no command {name!r}{did_you_mean(name, self.summaries)}; simsam --help lists all")
        return super().resolve_command(ctx, [name, *args[words:]])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        write_examples(formatter, "To begin with", _BEGIN)
        width = max(map(len, self.summaries))
        for title, commands in _COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), summary) for name, (_, summary) in commands.items()])
        click.Command.format_options(self, ctx, formatter)
        formatter.write_paragraph()
        formatter.write_text("simsam COMMAND --help shows examples of each.")


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="simsam")
def simsam() -> None:
    """Masks, regions, trees, probes and correspondences of whole image collections, by frozen ViT features."""


def main(arguments: list[str] | None = None) -> None:
    """Run the command and exit with its code; SIGTERM is taken like Ctrl-C, whatever the command is at."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    log_plainly()
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """Run the command; the exit code is returned. Errors are one message on stderr."""
    debug = "--debug" in arguments
    try:
        given = [argument for argument in arguments if argument != "--debug"]
        code = simsam.main(args=given or ["--help"], prog_name="simsam", standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        _say(["simsam: interrupted; run the same command again to go on"], err=True)
        code = EXIT_INTERRUPTED
    except click.ClickException as error:
        _show(error, debug=False)
        code = EXIT_COULD_NOT_RUN
    except Exception as error:  # noqa: BLE001  all that is left to do with any error is to show it
        _show(error, debug=debug)
        code = EXIT_COULD_NOT_RUN
    return int(code or 0)


def _show(error: Exception, *, debug: bool) -> None:
    """One message, after the traceback if that is asked for, without the credentials that it may quote."""
    from simsam_batch.storage import redact

    if debug:
        import traceback

        _say(redact("".join(traceback.format_exception(error))).split("\n"), err=True)
    if isinstance(error, SimsamError):
        lines = list(error.lines) or [type(error).__name__]
    elif isinstance(error, click.ClickException):
        lines = [" ".join(error.format_message().split())]
        if isinstance(error, click.MissingParameter) and error.ctx is not None:
            lines[0] += f" To mend it: give it; examples are in {error.ctx.command_path} --help"
    else:
        lines = [f"{type(error).__name__}: {error}", "This is a defect; --debug shows where it is"]
    _say([redact(line) for line in (f"simsam: {lines[0]}", *lines[1:])], err=True)


def _say(lines: Iterable[str], *, err: bool = False) -> None:
    """Print lines for people; what they quote steers no terminal, and begins no further line."""
    for line in lines:
        click.echo(plain(line), err=err)
