"""What every rank of the torchrun tests runs; its arguments: a folder, and the uris as JSON. It heeds STALL_SECONDS."""

from __future__ import annotations

import json
import os
import sys
from contextlib import closing
from dataclasses import astuple
from pathlib import Path

from trouble import TroubleStage, plan_of

from simsam_batch.engines.contract import Progress, Task
from simsam_batch.engines.torchrun import TorchrunEngine
from simsam_batch.runs.execute import ExecuteOptions, execute
from simsam_batch.runs.publish import publish
from simsam_batch.runs.runner import RunnerFactory, ShardRunner


def main() -> None:
    folder, uris = Path(sys.argv[1]), json.loads(sys.argv[2])
    options = ExecuteOptions(stall_seconds=float(os.environ.get("STALL_SECONDS", "1800")))
    stage = TroubleStage(str(folder), pause=0.1)
    with closing(TorchrunEngine(threads=1)) as engine:
        if engine.is_driver:
            out, plan = plan_of(folder / "out", uris, 2)

            def note(progress: Progress) -> None:
                with (folder / "heard.jsonl").open("a") as file:
                    file.write(json.dumps(astuple(progress)) + "\n")

            task = Task(description=json.dumps({"stage": stage.name}), on_progress=note)
            execute(out, plan, stage, engine, options, lambda report: None, task=task)
            publish(out, plan, stage)
        else:

            def runner_for(job: str) -> ShardRunner:
                assert json.loads(job) == {"stage": "trouble"}
                out, plan = plan_of(folder / "out", uris, 2)
                return RunnerFactory(out, plan, stage, options)()

            engine.serve(runner_for)
    (folder / f"ended.{os.environ['RANK']}").touch()


main()
