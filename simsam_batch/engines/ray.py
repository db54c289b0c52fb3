"""Shards on a Ray cluster, or on a Ray of our own on this machine: a Ray Data dataset over a pool of actors."""

from __future__ import annotations

import logging
import os
import pickle
import queue
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

from simsam_batch.engines.contract import Progress, Runner, ShardReport, Task
from simsam_batch.engines.devices import thread_environment
from simsam_batch.engines.ray_metrics import RunMetrics
from simsam_batch.engines.ray_pulse import send_beats, workers_heard
from simsam_batch.errors import RunError, SettingsError
from simsam_batch.plain_text import log_plainly

_IN_FLIGHT = 2
_OBJECT_STORE_BYTES = 128 * 1024**2
_RECYCLED_EXIT_CODE = 72
_LAST_REPORT_S = 1.0
_PROBE_S = 30.0
_QUESTION = "/ray.rpc.NodeInfoGcsService/GetClusterId"
_DETAILS = 200


class RayEngine:
    """A Ray Data dataset with one row and one block for each shard, mapped over a fixed pool of actors.

    Two shards are in flight in each actor, so that it decodes ahead. Only shard numbers go out and reports come
    back; neither pixels nor results cross the object store. Ray restarts an actor that dies and runs its rows
    again without limit; rows of a lost node move to the nodes that are left.

    Args:
        workers: number of actors; 0 for as many as the cluster has room for.
        threads: threads of BLAS and OpenMP in each, and CPUs reserved for each if it has no GPU.
        gpus: reserve one GPU for each actor, but for a task without; None: if the cluster has any.
        address: the cluster's address; without it ``RAY_ADDRESS``, which ``ray job submit`` sets; without that a
            Ray of our own is started here and ended by `close`.
        patience_s: how long a cluster may take to offer what ``workers`` need (an autoscaler starts nodes).
        recycle_after: an actor that has had so many shards ends its process, which Ray starts afresh; 0: never.
        workers_per_gpu: actors that share a GPU, each of which reserves a part of it.

    Raises:
        SettingsError: fewer than no worker or than one thread.
    """

    own_processes = True

    def __init__(
        self,
        workers: int,
        threads: int = 1,
        gpus: bool | None = False,
        address: str | None = None,
        patience_s: float = 300.0,
        recycle_after: int = 0,
        workers_per_gpu: int = 1,
    ) -> None:
        if workers < 0:
            raise SettingsError(f"workers is {workers}; it is 0 for as many as there is room for, or more")
        self._workers = workers
        self._threads = threads
        self._environment = thread_environment(threads)
        self._gpus = gpus
        self._address = address or os.environ.get("RAY_ADDRESS")
        self._patience_s = patience_s if self._address else 0.0
        self._recycle_after, self._workers_per_gpu = recycle_after, workers_per_gpu
        self._connected_here = False

    def run(
        self, make_runner: Callable[[], Runner], shards: Sequence[int], task: Task = Task()
    ) -> Iterator[ShardReport]:
        """Yield one report for each shard, as they come.

        Raises:
            SettingsError: Ray is not installed.
            RunError: the cluster cannot be reached, does not offer what the workers need, or ends the dataset.
        """
        if not shards:
            return
        ray = self._connect()
        actors, needs = self._await_room(ray, len(shards), task)
        metrics = RunMetrics({"run": task.run, "stage": task.stage})
        try:
            with workers_heard(ray, task.silence_s, task.on_progress) as pulses:
                dataset = self._dataset(ray, make_runner, shards, actors, needs, (pulses, task.silence_s))
                for block in dataset.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
                    for text in block.column("report").to_pylist():
                        report = ShardReport.from_json(text)
                        metrics.add(report)
                        yield report
        except ray.exceptions.RayError as error:
            raise RunError(
                f"Ray ended the dataset: {type(error).__name__}: {error}; run the same command again"
            ) from error

    def stop(self) -> bool:
        """False: the rows of a dataset cannot be called back, so what is in flight is abandoned."""
        return False

    def close(self) -> None:
        """Leave the cluster; end it if it is our own."""
        if self._connected_here:
            import ray

            ray.shutdown()
            self._connected_here = False

    def require_answer(self) -> None:
        """Find out whether a head answers at the address; without one there is nobody to ask.

        Ray's own client would try for many minutes.

        Raises:
            SettingsError: Ray is not installed.
            RunError: nothing answers within half a minute.
        """
        _ray()
        if re.match("https?:", self._address or ""):
            raise SettingsError(
                f"ray_address: {self._address} is where jobs are submitted to. To mend it: give that of the head as "
                "ray start prints it, HEAD:6379"
            )
        address = self._address or "auto"
        place = re.fullmatch(r"(?:ray://)?\[?([^/\[\]]+)\]?:(\d{1,5})", address)
        if place is None:
            # what Ray looks up by itself, or by another package
            if address in ("auto", "local") or "://" in address:
                return
            raise SettingsError(
                f"ray_address: {address} has no port. To mend it: give HEAD:6379, as ray start prints it"
            )
        reason = _no_answer(place[1], int(place[2]))
        if reason:
            raise RunError(
                f"no Ray answers at {self._address}: {reason}. To mend it: give the address of the head as ray start "
                "prints it, HEAD:6379, and see that this machine may reach that port; without an address a Ray of its "
                "own is started here"
            )

    def _connect(self) -> Any:
        ray = _ray()
        if ray.is_initialized():
            return ray
        # Ray's core prints each actor's creation as an error; what matters comes as an exception or a report.
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        on_sigterm = signal.getsignal(signal.SIGTERM)
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        try:
            if self._address:
                ray.init(address=self._address, **quiet)
            else:
                # No figures about the run leave the machine, and no more CPUs are promised than workers were asked for.
                os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
                ray.init(
                    address="local",
                    num_cpus=self._workers * self._threads or None,
                    include_dashboard=False,
                    object_store_memory=_OBJECT_STORE_BYTES,
                    **quiet,
                )
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            hint = "; a cluster with tokens needs RAY_AUTH_MODE=token and its token here too" if self._address else ""
            raise RunError(f"no Ray at {self._address or 'this machine'}: {error}{hint}") from error
        finally:
            # Ray puts its own handler in place, which ends the process at once.
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, on_sigterm)
        self._connected_here = True
        return ray

    def _await_room(self, ray: Any, shards: int, task: Task) -> tuple[int, dict[str, float]]:
        """How many actors to make and what each reserves; waits for room, for a pool never filled waits for ever."""
        most = min(shards, task.workers or shards)
        wanted = min(self._workers or 1, most)
        deadline = time.monotonic() + self._patience_s
        while True:
            nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
            on_gpus = any(node.get("GPU") for node in nodes) if self._gpus is None else self._gpus
            on_gpus = on_gpus and task.gpu
            # so many share ``amount`` of the resource
            resource, share, amount = ("GPU", self._workers_per_gpu, 1) if on_gpus else ("CPU", 1, self._threads)
            offered = [node.get(resource, 0.0) for node in nodes]
            room = sum(int(here // amount) * share for here in offered)
            if room >= wanted:
                return min(self._workers or room, most), {resource: amount / share}
            if time.monotonic() >= deadline:
                raise RunError(
                    f"{wanted} worker(s) need {amount / share:g} {resource} each, but the Ray cluster has room for "
                    f"{room} ({resource} by node: {offered}); ask for fewer workers or add nodes"
                )
            time.sleep(2.0)

    def _dataset(
        self,
        ray: Any,
        make_runner: Callable[[], Runner],
        shards: Sequence[int],
        actors: int,
        needs: dict[str, float],
        pulses: tuple[Any, float],
    ) -> Any:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        reserved = {f"num_{resource.lower()}s": amount for resource, amount in needs.items()}
        dataset = ray.data.from_items([{"shard": number} for number in shards], override_num_blocks=len(shards)).map(
            _ShardCaller,
            # Pickled here, so that a runner that cannot be loaded over there becomes reports, not a dead actor.
            fn_constructor_args=(ray.cloudpickle.dumps(make_runner), self._recycle_after, *pulses),
            compute=ray.data.ActorPoolStrategy(
                size=actors,
                max_tasks_in_flight_per_actor=_IN_FLIGHT,
                max_concurrent_calls_per_actor=_IN_FLIGHT,
                enable_true_multi_threading=True,
            ),
            # Restarts of actors and retries of their rows are without limit by Ray Data's own default.
            runtime_env={"env_vars": self._environment},
            **{"num_cpus": 0, **reserved},
        )
        context = dataset.context
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.execution_options.preserve_order = False
        # A shard may rightly take long; the runner's own watchdog ends what stands still.
        context.execution_no_progress_timeout_s = -1
        # A node may be lost while its actor starts; only a start that never succeeds ends the run.
        context.max_consecutive_actor_init_deaths = 10
        return dataset


def _ray() -> Any:
    """The package, if it is installed."""
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise SettingsError(f"engine ray needs Ray ({error}): pip install 'simsam-batch[ray]'") from error
    return ray


def _no_answer(host: str, port: int) -> str:
    """Why no server of Ray's answers at a place; empty if one does, be it that it asks for a token."""
    import grpc

    began = time.monotonic()
    try:
        socket.create_connection((host, port), timeout=_PROBE_S).close()
    except (OSError, OverflowError, UnicodeError) as error:
        return getattr(error, "strerror", None) or str(error)
    # behind TLS a server answers those alone who have its certificates, which Ray itself will show
    if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
        return ""
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    with grpc.insecure_channel(place, options=[("grpc.enable_http_proxy", 0)]) as channel:
        ask = channel.unary_unary(_QUESTION, request_serializer=bytes, response_deserializer=bytes)
        try:
            ask(b"", timeout=max(1.0, _PROBE_S - (time.monotonic() - began)), wait_for_ready=True)
        except grpc.RpcError as error:
            code, details = error.code(), error.details() or ""
            # a web server or proxy is told by what it is made of; a head may know the question by another name
            is_web = details.startswith("Received http2 header with status")
            if is_web or code not in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED):
                return f"what listens there is no Ray ({details[:_DETAILS] or code.name})"
    return ""


class _ShardCaller:
    """The mapped callable: each call puts its shard in the queue of one runner and waits for that shard's report.

    It never raises, for Ray would end the whole dataset, and its constructor does nothing that could fail.
    """

    def __init__(self, make_runner: bytes, recycle_after: int = 0, pulses: Any = None, silence_s: float = 0.0) -> None:
        log_plainly()
        self._make_runner = make_runner
        self._recycle_after = recycle_after
        self._given = 0
        self._numbers: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._answers: dict[int, Future[ShardReport]] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._pace = _Pace()
        self._got_on, self._built = True, False
        self._far: Progress | None = None
        if pulses is not None:
            send_beats(pulses, silence_s, self._gets_on)

    def __call__(self, row: Mapping[str, Any]) -> dict[str, str]:
        shard = int(row["shard"])
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="runner", daemon=True)
                self._thread.start()
            answer = self._answers.get(shard)
            # Ray sends a row again when it lost sight of us; the shard is then in hand already.
            if answer is None:
                answer = self._answers[shard] = Future()
                self._got_on = True
                self._numbers.put(shard)
        return {"report": answer.result().to_json()}

    def _work(self) -> None:
        runner: Runner | None = None
        while True:
            drawn = [self._numbers.get()]
            try:
                if runner is None:
                    runner = pickle.loads(self._make_runner)()  # noqa: S301 - from our own driver, through Ray
                    self._got_on = self._built = True
                for report in runner.run(self._draw(drawn)):
                    self._got_on = True
                    if isinstance(report, Progress):
                        self._far = report
                    elif report is not None:
                        drawn.remove(report.shard)
                        self._answer(report)
            except Exception as error:  # noqa: BLE001 - becomes the reports of the shards it concerns
                reason = f"{type(error).__name__}: {error}"
                for shard in drawn:
                    self._answer(ShardReport(shard=shard, attempt=0, status="error", error=reason))
            if self._is_used_up():
                # Ray takes this for a death: it starts the process again, and sends it the rows that wait here.
                time.sleep(_LAST_REPORT_S)
                os._exit(_RECYCLED_EXIT_CODE)

    def _draw(self, drawn: list[int]) -> Iterator[int]:
        """The first of ``drawn``, then what comes; ends when nothing came for long, for no call says it is the last."""
        self._given += 1
        yield drawn[0]
        while not self._is_used_up():
            try:
                number = self._numbers.get(timeout=self._pace.patience_s())
            except queue.Empty:
                return
            drawn.append(number)
            self._given += 1
            yield number

    def _is_used_up(self) -> bool:
        return 0 < self._recycle_after <= self._given

    def _gets_on(self) -> tuple[bool, Progress | None]:
        """Whether something got on since this was last asked, there is nothing to do, or packages are being loaded.

        And how far the shard in hand is, if that was said since.
        """
        with self._lock:
            got_on, self._got_on = self._got_on or not (self._answers and self._built), False
            far, self._far = self._far, None
        return got_on, far

    def _answer(self, report: ShardReport) -> None:
        self._pace.reported()
        with self._lock:
            answer = self._answers.pop(report.shard)
        answer.set_result(report)


class _Pace:
    """How long a runner that waits for another shard may wait before it is told to finish what it holds.

    A runner that decodes ahead always waits for the next number while it computes; telling it too early drains its
    pipeline. One that computes nothing until the next number has come would wait for ever. So: three times the
    longest time between two reports, from one second to a minute; five seconds before that is known.
    """

    def __init__(self) -> None:
        self._last: float | None = None
        self._longest_s = 5.0 / 3.0
        self._measured = False

    def reported(self) -> None:
        now = time.monotonic()
        if self._last is not None:
            self._longest_s = max(now - self._last, self._longest_s if self._measured else 0.0)
            self._measured = True
        self._last = now

    def patience_s(self) -> float:
        return min(60.0, max(1.0, 3.0 * self._longest_s))
