"""Shards on the ranks of a torchrun (or Slurm) job: every rank draws numbers from a counter in the job's TCPStore."""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple
from datetime import timedelta
from typing import Any

from simsam_batch.engines.contract import Progress, Runner, ShardReport, Task, look_s
from simsam_batch.engines.devices import gpu_for_each, thread_environment
from simsam_batch.engines.interrupt import interruptible
from simsam_batch.errors import RunError, SettingsError

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_POLL_S = 0.2
_FAREWELL_S = 30.0


class TorchrunEngine:
    """One worker on each rank of a job that torchrun started; every rank runs the same command.

    Rank 0 is the driver: it calls `run` as often as it likes, works on shards itself, and ends with `close`. Every
    other rank calls `serve`, which returns when rank 0 has closed::

        with closing(TorchrunEngine(threads)) as engine:
            if engine.is_driver:
                task = Task(description=json.dumps({"stage": stage.name}))
                execute(out, plan, stage, engine, options, on_report, task=task)
            else:
                engine.serve(lambda description: RunnerFactory(...)())

    A rank that dies makes torchrun end all ranks; with ``--max-restarts`` it starts them again, and they go on from
    the ledger. torchrun's own exit code is 1 for any rank that did not end with 0. Must be made before CUDA is used.

    Args:
        threads: threads of BLAS and OpenMP in each rank.
        gpus: give each rank of a machine one of its visible GPUs, by ``LOCAL_RANK``.
        silence_s: how long rank 0, its own work done, waits for any report before it gives up those missing as errors;
            whether they were committed after all is for the ledger to say.
        grace_s: how long another rank that was asked to end waits for rank 0 to end it.
        workers_per_gpu: ranks that share a GPU.

    Raises:
        SettingsError: this process was not started by torchrun, or there are fewer GPUs than ranks on the machine.
        RunError: the job's TCPStore cannot be reached.
    """

    own_processes = True

    def __init__(
        self,
        threads: int = 1,
        gpus: bool = False,
        silence_s: float = 3600.0,
        grace_s: float = 20.0,
        workers_per_gpu: int = 1,
    ) -> None:
        missing = [name for name in _VARIABLES if name not in os.environ]
        if missing:
            raise SettingsError(
                f"engine torchrun needs {', '.join(missing)} in the environment; start with: "
                "torchrun --nproc-per-node N -m simsam_batch ..."
            )
        self._rank, self._world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        if gpus:
            local_rank, on_this_machine = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
            os.environ["CUDA_VISIBLE_DEVICES"] = gpu_for_each(on_this_machine, workers_per_gpu)[local_rank]
        _limit_threads(threads)
        self._silence_s, self._grace_s = silence_s, grace_s
        self._stopped = False
        self._round = 0
        self._serves_store = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True" and self._rank == 0
        self._store = self._connect()

    @property
    def is_driver(self) -> bool:
        """Whether this is rank 0."""
        return self._rank == 0

    def run(
        self, make_runner: Callable[[], Runner], shards: Sequence[int], task: Task = Task()
    ) -> Iterator[ShardReport]:
        """On rank 0: let all ranks work on the shards and yield one report for each, as they come.

        ``task.description`` tells the other ranks what to build; they cannot be sent ``make_runner``, for nothing from
        a network port is unpickled.

        Raises:
            RunError: called on another rank; or one that may hold shards was silent for as long as the task allows. It
                cannot be ended from here, but torchrun ends all when this one ends, and starts them again if it may.
        """
        if not self.is_driver:
            raise RunError(f"rank {self._rank} is not the driver: it serves")
        self._round += 1
        self._post({"job": task.description, "shards": list(shards)})
        missing = set(shards)
        own: queue.SimpleQueue[ShardReport | Progress | BaseException | None] = queue.SimpleQueue()
        numbers = self._draw(self._round, shards)
        threading.Thread(target=_work, args=(make_runner, numbers, own), name="rank 0", daemon=True).start()
        at_work, called_back = True, False
        heard = time.monotonic()
        while missing:
            if self._stopped and not called_back:
                missing.intersection_update(self._call_back(shards))
                called_back = True
            reports, at_work = _collect(own, at_work)
            for report in [*reports, *self._from_other_ranks()]:
                heard = time.monotonic()
                if isinstance(report, Progress):
                    task.on_progress(report)
                elif report.shard in missing:
                    missing.discard(report.shard)
                    yield report
            if task.silence_s:
                self._require_pulses(task.silence_s)
            if not at_work and time.monotonic() - heard > self._silence_s:
                reason = f"no rank reported this shard; the last report came {self._silence_s:g} s ago"
                yield from (ShardReport(number, 0, "error", error=reason) for number in sorted(missing))
                return

    def serve(self, make_runner: Callable[[str], Runner]) -> None:
        """On every other rank: work on what rank 0 posts until it has closed, or this rank is asked to end.

        Args:
            make_runner: builds the runner from a description; called again only if that changes. If it raises, the
                shards this rank draws are reported as errors.

        Raises:
            RunError: rank 0 or its machine is gone.
            KeyboardInterrupt: some time after SIGINT or SIGTERM, if rank 0 has not ended this rank by then.
        """
        runner: Runner | None = None
        runner_job: str | None = None
        try:
            with interruptible(self.stop, self._grace_s):
                while "job" in (order := self._next_order()):
                    if runner is None or order["job"] != runner_job:
                        runner, runner_job = _built(make_runner, order["job"]), order["job"]
                    self._work_on(runner, order["shards"])
        except RuntimeError as error:
            raise RunError(
                f"rank {self._rank} lost the job's TCPStore, rank 0 or its machine is gone: {error}. To mend it: "
                "start the job again, which goes on"
            ) from error

    def _work_on(self, runner: Runner, shards: Sequence[int]) -> None:
        """Report what this rank draws, that it gets on and how far; in the end that it has drawn all it will."""
        sent = 0
        self._store.add(f"{self._round}/pulse/{self._rank}", 1)
        for report in runner.run(self._draw(self._round, shards)):
            self._store.add(f"{self._round}/pulse/{self._rank}", 1)
            if isinstance(report, ShardReport):
                self._store.set(f"{self._round}/report/{self._rank}/{sent}", report.to_json())
                sent += 1
            elif report is not None:
                self._store.set(f"{self._round}/far/{self._rank}", json.dumps(astuple(report)))
        self._store.set(f"{self._round}/over/{self._rank}", "")

    def stop(self) -> bool:
        """On rank 0: let no rank draw another shard; `run` ends once those drawn are reported. Else: draw none here."""
        self._stopped = True
        return True

    def close(self) -> None:
        """On rank 0: let the other ranks end. On theirs: nothing. Calling it again does nothing."""
        if not self.is_driver or self._round < 0:
            return
        self._round += 1
        self._post({})
        self._round = -1
        deadline = time.monotonic() + _FAREWELL_S
        # A store of our own ends with this process; one of torchrun's agent outlives all ranks.
        while self._serves_store and self._store.add("farewell", 0) < self._world - 1 and time.monotonic() < deadline:
            time.sleep(_POLL_S)

    def _connect(self) -> Any:
        import torch.distributed

        dist: Any = torch.distributed
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        try:
            store = dist.TCPStore(
                host,
                port,
                is_master=self._serves_store,
                timeout=timedelta(seconds=300),
                wait_for_workers=False,
                multi_tenant=self._serves_store,
            )
        except (RuntimeError, ValueError) as error:
            raise RunError(
                f"rank {self._rank} cannot reach the job's TCPStore at {host}:{port}: {error}. To mend it: see that "
                "rank 0 runs, and that its machine takes connections on that port"
            ) from error
        # After a restart of all ranks the store may still hold what the last ones wrote.
        return dist.PrefixStore(f"simsam/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)

    def _post(self, order: dict[str, Any]) -> None:
        self._seen = dict.fromkeys(range(1, self._world), 0)
        self._pulses = dict.fromkeys(self._seen, (0, time.monotonic()))
        self._looked = time.monotonic()
        self._store.set(f"{self._round}/order", json.dumps(order))

    def _next_order(self) -> dict[str, Any]:
        self._round += 1
        key = f"{self._round}/order"
        while not (posted := self._store.check([key])) and not self._stopped:
            time.sleep(_POLL_S)
        order: dict[str, Any] = json.loads(self._store.get(key)) if posted else {}
        if "job" not in order:
            self._store.add("farewell", 1)
        return order

    def _draw(self, round_number: int, shards: Sequence[int]) -> Iterator[int]:
        """Numbers for this rank's runner, until all are drawn or called back."""
        while not self._stopped and (index := self._store.add(f"{round_number}/next", 1) - 1) < len(shards):
            yield shards[index]

    def _call_back(self, shards: Sequence[int]) -> Sequence[int]:
        """Let no rank draw another number; returns those that were drawn."""
        counter = f"{self._round}/next"
        return shards[: self._store.add(counter, len(shards)) - len(shards)]

    def _require_pulses(self, silence_s: float) -> None:
        """Raise if a rank that has begun to draw, and not drawn all it will, has long not said that it gets on."""
        now = time.monotonic()
        if now - self._looked < look_s(silence_s):
            return
        self._looked = now
        for rank, (before, heard) in self._pulses.items():
            count = self._store.add(f"{self._round}/pulse/{rank}", 0)
            if count != before or self._store.check([f"{self._round}/over/{rank}"]):
                self._pulses[rank] = count, now
            elif before and now - heard > silence_s:
                raise RunError(
                    f"rank {rank} was silent for {now - heard:.0f} s: its process is stopped or stuck, which torchrun "
                    "does not notice. To mend it: start the job again, which goes on from here; --max-restarts does so"
                )

    def _from_other_ranks(self) -> Iterator[ShardReport | Progress]:
        """Each rank numbers its reports, so that a rank that dies leaves no gap to wait for."""
        for rank in self._seen:
            if self._store.check([far := f"{self._round}/far/{rank}"]):
                yield Progress(*json.loads(self._store.get(far)))
                self._store.delete_key(far)
            while self._store.check([key := f"{self._round}/report/{rank}/{self._seen[rank]}"]):
                text = self._store.get(key)
                self._store.delete_key(key)
                self._seen[rank] += 1
                yield ShardReport.from_json(text)


class _Unbuildable:
    """Stands for a runner that could not be built: every shard drawn becomes an error that says why."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def run(self, shards: Iterator[int]) -> Iterator[ShardReport]:
        """Report each shard drawn as an error, slowly, so that ranks that can work get most of them."""
        for number in shards:
            time.sleep(1.0)
            yield ShardReport(number, 0, "error", error=self._reason)


def _built(make_runner: Callable[[str], Runner], job: str) -> Runner:
    try:
        return make_runner(job)
    except Exception as error:  # noqa: BLE001 - becomes the reports of the shards this rank draws
        return _Unbuildable(f"rank {os.environ['RANK']} cannot build its runner: {type(error).__name__}: {error}")


def _work(
    make_runner: Callable[[], Runner],
    numbers: Iterator[int],
    reports: queue.SimpleQueue[ShardReport | Progress | BaseException | None],
) -> None:
    try:
        for report in make_runner().run(numbers):
            if report is not None:
                reports.put(report)
        reports.put(None)
    except Exception as error:  # noqa: BLE001 - raised again by the thread that takes the reports
        reports.put(error)


def _collect(
    own: queue.SimpleQueue[ShardReport | Progress | BaseException | None], at_work: bool
) -> tuple[list[ShardReport | Progress], bool]:
    """Wait a moment for word of this rank's own runner, and say whether it is still at work."""
    reports: list[ShardReport | Progress] = []
    if not at_work:
        time.sleep(_POLL_S)
        return reports, False
    try:
        item = own.get(timeout=_POLL_S)
    except queue.Empty:
        return reports, True
    if isinstance(item, BaseException):
        raise RunError(f"rank 0 cannot run shards: {type(item).__name__}: {item}") from item
    if item is not None:
        reports.append(item)
    return reports, item is not None


def _limit_threads(threads: int) -> None:
    """Set the thread count here, where NumPy may be loaded already; the environment is for what loads later."""
    from threadpoolctl import threadpool_limits

    os.environ.update(thread_environment(threads))
    threadpool_limits(limits=threads)
