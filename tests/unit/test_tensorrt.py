"""The TensorRT candidate: which sessions it opens, and what becomes of the engines."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from stoker.errors import ExecutionFailed, InvalidRequest, OutOfMemory, ServingError
from stoker.model import Accelerator, ModelConfig, Optimization, TensorConfig
from stoker.runtime.candidate import CandidateRefused, Stop
from stoker.runtime.gpu_facts import Gpu
from stoker.runtime.session import Placement, Session
from stoker.runtime.tensorrt import (
    ModelSource,
    TensorRtCandidate,
    TensorRtPlaces,
    tensorrt_candidate,
)
from stoker.runtime.tensorrt_library import TensorRtLibrary
from stoker.runtime.tensorrt_options import Precision, TensorRtRequest, default_workspace
from stoker.runtime.tensorrt_profile import profile_of
from stoker.tensor import DataType, TensorSpec

from tests import models
from tests.calls import wait_until
from tests.engine_parts import config
from tests.fake_runtime import FakeClock, FakeRuntime

ON_GPU = Placement("cuda:0", 1, 1)
FOUND = TensorRtLibrary("10.16.1")
X = TensorSpec("x", DataType.FP32, (-1, 4))


class Builder:
    """Stands where ONNX Runtime opens TensorRT sessions: it writes an engine file as the provider
    does, unless there is one."""

    def __init__(self, clock: FakeClock) -> None:
        self.runtime = FakeRuntime()
        self.clock = clock
        self.error: ServingError | None = None
        self.fails_once: ServingError | None = None
        self.refuses_below: Path | None = None
        """Engines that lie there cannot be loaded."""
        self.gpus = {
            "cuda:0": Gpu(0, "NVIDIA L4", (8, 9)),
            "cuda:1": Gpu(1, "NVIDIA L4", (8, 9)),
        }
        self.opened: list[Mapping[str, str]] = []
        self.built = 0
        self.on_built: Callable[[], None] = lambda: None

    @property
    def version(self) -> str:
        return "1.31.1"

    def gpu(self, device: str) -> Gpu:
        return self.gpus[device]

    def open_tensorrt(
        self,
        path: Path,
        config: ModelConfig,
        placement: Placement,
        options: Mapping[str, str],
        stop: Stop,
    ) -> Session:
        self.opened.append(options)
        if self.error is not None:
            raise self.error
        once, self.fails_once = self.fails_once, None
        if once is not None:
            raise once
        assert len(self.opened) < 20, "an engine is opened again and again"
        folder = Path(options["trt_engine_cache_path"])
        if self.refuses_below is not None and folder.is_relative_to(self.refuses_below):
            raise InvalidRequest("could not deserialize engine from cache")
        engine = folder / "TensorrtExecutionProvider_graph_0_sm89.engine"
        if not engine.exists():
            self.built += 1
            self.on_built()
            self.clock.advance(90)
            engine.write_bytes(b"engine" * 50)
            (folder / "TensorrtExecutionProvider_cache_sm89.timing").write_bytes(b"times")
        return self.runtime.open(path, config, placement)


class Scene:
    def __init__(self, folder: Path) -> None:
        self.clock = FakeClock()
        self.builder = Builder(self.clock)
        self.folder = folder
        self.path = models.write_model(folder / "1" / "model.onnx", models.double())
        self.root: Path | None = folder / "cache"
        self.config = config()
        self.library = FOUND
        self.plugins: tuple[Path, ...] = ()

    def candidate(self, request: TensorRtRequest | None = None) -> TensorRtCandidate:
        """As a process of its own would make it."""
        request = request or TensorRtRequest({"trt_fp16_enable": "1"}, Precision.FP16)
        return TensorRtCandidate(
            ModelSource(self.path, self.folder, self.config),
            request,
            profile_of("m", [X], {"x": ("batch", None)}, request, buckets=(1, 2, 4, 8)),
            runtime=self.builder,
            library=self.library,
            places=TensorRtPlaces(self.root, self.plugins),
            clock=self.clock,
        )


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    yield Scene(tmp_path)
    for each in tmp_path.rglob("*"):  # published engines cannot be written to
        if each.is_dir():
            each.chmod(0o755)


def test_a_session_is_opened_with_the_models_options_its_profile_and_the_engines_folder(
    scene: Scene,
) -> None:
    candidate = scene.candidate()
    candidate.open(ON_GPU, Stop())
    (options,) = scene.builder.opened
    folder = options["trt_engine_cache_path"]
    assert options == {
        "trt_fp16_enable": "1",
        "trt_profile_min_shapes": "x:1x4",
        "trt_profile_opt_shapes": "x:8x4",
        "trt_profile_max_shapes": "x:8x4",
        "trt_engine_cache_path": folder,
        "trt_timing_cache_path": folder,
    }
    assert Path(folder).is_relative_to(scene.folder / "cache")


def test_an_engine_may_take_a_quarter_of_the_gpu_for_scratch_unless_the_model_says(
    scene: Scene,
) -> None:
    scene.builder.gpus["cuda:0"] = Gpu(0, "NVIDIA L4", (8, 9), memory_bytes=23_034 << 20)
    for written, workspace in (({}, 4 << 30), ({"trt_max_workspace_size": "5"}, 5)):
        candidate = scene.candidate(TensorRtRequest(written))
        candidate.open(ON_GPU, Stop())
        candidate.discard()
        assert scene.builder.opened[-1]["trt_max_workspace_size"] == str(workspace)


def test_the_limit_for_scratch_is_the_same_whatever_a_driver_leaves_of_a_gpu() -> None:
    assert default_workspace(24 << 30) == default_workspace(22_500 << 20) == 4 << 30
    assert default_workspace(80 << 30) == 16 << 30
    assert default_workspace(0) == 0


@pytest.mark.parametrize(
    ("precision", "least"),
    [(Precision.FP32, 16), (Precision.FP16, 8), (Precision.BF16, 8), (Precision.INT8, 4)],
)
def test_the_least_that_a_session_takes_are_its_weights_in_its_precision(
    scene: Scene, precision: Precision, least: int
) -> None:
    models.write_model(scene.path, models.external())
    assert scene.candidate(TensorRtRequest({}, precision)).least_bytes() == least


def test_a_proved_engine_is_a_hit_for_the_next_process_and_is_not_built_again(
    scene: Scene,
) -> None:
    first = scene.candidate()
    first.open(ON_GPU, Stop())
    first.keep()
    assert (first.preparation.hits, first.preparation.misses) == (0, 1)
    assert first.preparation.seconds == 90
    assert first.preparation.nbytes > 300
    second = scene.candidate()
    second.open(ON_GPU, Stop())
    assert (second.preparation.hits, second.preparation.misses) == (1, 0)
    assert second.preparation.seconds == 0
    assert second.preparation.nbytes > 300
    assert scene.builder.built == 1
    second.keep()


def test_an_engine_that_was_not_proved_is_not_there_for_anybody(scene: Scene) -> None:
    first = scene.candidate()
    first.open(ON_GPU, Stop())
    first.discard()
    first.discard()
    assert not list((scene.folder / "cache" / ".building").iterdir())
    scene.candidate().open(ON_GPU, Stop())
    assert scene.builder.built == 2


def test_all_sessions_of_one_kind_of_gpu_share_the_engine_that_the_first_one_built(
    scene: Scene,
) -> None:
    candidate = scene.candidate()
    for device in ("cuda:0", "cuda:0", "cuda:1"):
        candidate.open(Placement(device, 1, 1), Stop())
    assert scene.builder.built == 1
    assert candidate.preparation.misses == 1


def test_each_kind_of_gpu_has_an_engine_of_its_own(scene: Scene) -> None:
    scene.builder.gpus["cuda:1"] = Gpu(1, "NVIDIA A10", (8, 6))
    candidate = scene.candidate()
    for device in ("cuda:0", "cuda:1"):
        candidate.open(Placement(device, 1, 1), Stop())
    assert scene.builder.built == 2
    candidate.keep()
    again = scene.candidate()
    for device in ("cuda:0", "cuda:0", "cuda:1"):
        again.open(Placement(device, 1, 1), Stop())
    assert again.preparation.hits == 3


def change_model(scene: Scene) -> None:
    models.write_model(scene.path, models.mlp())


def change_tensorrt(scene: Scene) -> None:
    scene.library = TensorRtLibrary("10.17.0")


def change_graph_level(scene: Scene) -> None:
    scene.config = replace(scene.config, optimization=Optimization(graph_level=1))


@pytest.mark.parametrize("change", [change_model, change_tensorrt, change_graph_level])
def test_anything_that_an_engine_depends_on_gives_another_engine(
    scene: Scene, change: Callable[[Scene], None]
) -> None:
    first = scene.candidate()
    first.open(ON_GPU, Stop())
    first.keep()
    change(scene)
    scene.candidate().open(ON_GPU, Stop())
    assert scene.builder.built == 2


def test_another_profile_or_precision_gives_another_engine(scene: Scene) -> None:
    for request in (
        TensorRtRequest({"trt_fp16_enable": "1"}, Precision.FP16),
        TensorRtRequest({}),
        TensorRtRequest({}, shapes={"x": ((1, 4), (2, 4), (4, 4))}),
    ):
        candidate = scene.candidate(request)
        candidate.open(ON_GPU, Stop())
        candidate.keep()
    assert scene.builder.built == 3


def test_a_tolerance_changes_no_engine(scene: Scene) -> None:
    for tolerance in (None, 0.5):
        candidate = scene.candidate(TensorRtRequest({}, tolerance=tolerance))
        candidate.open(ON_GPU, Stop())
        candidate.keep()
    assert scene.builder.built == 1


def test_a_model_that_wants_no_cache_leaves_nothing_behind(scene: Scene) -> None:
    candidate = scene.candidate(TensorRtRequest({}, is_cached=False))
    candidate.open(ON_GPU, Stop())
    folder = Path(scene.builder.opened[0]["trt_engine_cache_path"])
    candidate.keep()
    assert not [each for each in (scene.folder / "cache").rglob("*") if each.is_file()]
    assert not folder.exists()


def test_the_models_tolerance_holds_as_it_is_and_the_default_is_no_less_than_rounding(
    scene: Scene,
) -> None:
    own = scene.candidate(TensorRtRequest({}, tolerance=1e-6))
    assert own.tolerance(rounding=0.05) == 1e-6
    default = scene.candidate(TensorRtRequest({}))
    assert default.tolerance(rounding=1e-4) == 5e-3
    assert default.tolerance(rounding=0.05) == 0.05


def test_corners_and_coverage_are_those_of_the_profile(scene: Scene) -> None:
    candidate = scene.candidate()
    assert candidate.corners() == ({"x": (8, 4)}, {"x": (1, 4)})
    assert candidate.covers({"x": (8, 4)})
    assert not candidate.covers({"x": (9, 4)})


def asking(scene: Scene, **parameters: str) -> ModelConfig:
    accelerator = Accelerator("tensorrt", parameters)
    return replace(scene.config, optimization=Optimization(gpu_accelerators=(accelerator,)))


def whole(scene: Scene, model: ModelConfig) -> TensorRtCandidate | None:
    session = models.open_on_cpu(scene.folder, models.dynamic())
    return tensorrt_candidate(
        ModelSource(scene.path, scene.folder, model),
        session,
        scene.builder,
        lambda: scene.library,
        TensorRtPlaces(scene.root),
        buckets=(1, 2, 4, 8),
    )


def test_a_model_that_asks_for_it_has_a_candidate_of_its_batches_and_declared_ranges(
    scene: Scene,
) -> None:
    candidate = whole(scene, asking(scene, trt_dimension_ranges="length=1..16"))
    assert candidate is not None
    assert candidate.corners() == ({"x": (8, 16)}, {"x": (1, 1)})


def test_a_model_that_does_not_ask_has_none_whatever_is_installed(scene: Scene) -> None:
    scene.library = TensorRtLibrary(problem="libnvinfer.so.10 could not be loaded")
    assert whole(scene, scene.config) is None


def test_a_missing_library_refuses_the_candidate_with_the_reason(scene: Scene) -> None:
    scene.library = TensorRtLibrary(problem="libnvinfer.so.10 could not be loaded")
    with pytest.raises(CandidateRefused, match="libnvinfer") as refused:
        whole(scene, asking(scene))
    assert refused.value.title == "TensorRT"


def test_a_dimension_of_unknown_size_refuses_the_candidate_with_what_to_declare(
    scene: Scene,
) -> None:
    with pytest.raises(CandidateRefused, match=r'trt_dimension_ranges "length=1\.\.512"'):
        whole(scene, asking(scene))


def test_the_edges_of_a_bucketed_dimension_are_its_range(scene: Scene) -> None:
    model = replace(
        asking(scene),
        inputs=(TensorConfig("x", DataType.FP32, (-1,)),),
        outputs=(TensorConfig("y", DataType.FP32, (-1,)),),
        parameters={"bucket_dimension": "x:1=8,32"},
    )
    candidate = whole(scene, model)
    assert candidate is not None
    assert candidate.corners() == ({"x": (8, 32)}, {"x": (1, 8)})


def test_an_unknown_parameter_is_no_refusal_of_the_candidate_but_of_the_model(
    scene: Scene,
) -> None:
    with pytest.raises(InvalidRequest, match="trt_fp_enable") as refused:
        whole(scene, asking(scene, trt_fp_enable="1"))
    assert not isinstance(refused.value, CandidateRefused)


def test_without_a_cache_folder_engines_are_built_for_this_process_only(scene: Scene) -> None:
    scene.root = None  # as where the process has no home
    candidate = scene.candidate()
    candidate.open(ON_GPU, Stop())
    folder = Path(scene.builder.opened[0]["trt_engine_cache_path"])
    assert not folder.is_relative_to(scene.folder)
    candidate.keep()
    assert not folder.exists()


def test_the_calibration_table_of_the_models_folder_lies_beside_the_engine(scene: Scene) -> None:
    (scene.folder / "table").write_bytes(b"ranges")
    request = TensorRtRequest({}, Precision.INT8, calibration_table="table")
    first = scene.candidate(request)
    first.open(ON_GPU, Stop())
    folder = Path(scene.builder.opened[0]["trt_engine_cache_path"])
    assert (folder / "table").read_bytes() == b"ranges"
    first.keep()
    (scene.folder / "table").write_bytes(b"other ranges")
    scene.candidate(request).open(ON_GPU, Stop())
    assert scene.builder.built == 2


@pytest.mark.parametrize("kind", ["missing", "link", "folder"])
def test_a_calibration_table_that_is_no_file_of_the_folder_is_refused(
    scene: Scene, tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    if kind == "link":
        foreign = tmp_path_factory.mktemp("elsewhere") / "secret"
        foreign.write_bytes(b"secret")
        (scene.folder / "table").symlink_to(foreign)
    elif kind == "folder":
        (scene.folder / "table").mkdir()
    request = TensorRtRequest({}, Precision.INT8, calibration_table="table")
    with pytest.raises(CandidateRefused, match="not a file of the model's folder"):
        scene.candidate(request)


def test_plug_ins_of_the_operator_reach_the_provider_and_count_for_the_key(scene: Scene) -> None:
    plugin = scene.folder / "plugin.so"
    plugin.write_bytes(b"one")
    scene.plugins = (plugin, plugin)
    first = scene.candidate()
    first.open(ON_GPU, Stop())
    first.keep()
    assert scene.builder.opened[0]["trt_extra_plugin_lib_paths"] == f"{plugin};{plugin}"
    plugin.write_bytes(b"two")
    scene.candidate().open(ON_GPU, Stop())
    assert scene.builder.built == 2
    scene.plugins = (scene.folder / "none.so",)
    with pytest.raises(CandidateRefused, match=r"'none\.so', which is not a file"):
        scene.candidate()


def test_tensors_inside_of_a_split_graph_are_named_with_what_to_write(scene: Scene) -> None:
    cause = RuntimeError(
        "[ONNXRuntimeError] : 1 : FAIL : User needs to provide all the dynamic shape inputs with "
        "associated profiles if they want to explicitly set profiles through provider options.\n"
        "Please note that main graph could be partitioned into TRT/CUDA/CPU subgraphs.\n"
        "Following input(s) has no associated shape profiles provided: /a/Add_output_0,mask_2,\n"
    )
    error = ExecutionFailed("cannot open")
    error.__cause__ = cause
    scene.builder.error = error
    with pytest.raises(InvalidRequest, match="/a/Add_output_0, mask_2; write trt_profile_min"):
        scene.candidate().open(ON_GPU, Stop())


def test_an_engine_of_the_cache_that_cannot_be_loaded_is_built_anew_and_replaced(
    scene: Scene,
) -> None:
    first = scene.candidate()
    first.open(ON_GPU, Stop())
    first.keep()
    scene.builder.fails_once = InvalidRequest("could not deserialize engine from cache")
    second = scene.candidate()
    second.open(ON_GPU, Stop())
    assert (second.preparation.hits, second.preparation.misses) == (0, 1)
    second.keep()
    third = scene.candidate()
    third.open(ON_GPU, Stop())
    assert third.preparation.hits == 1
    assert scene.builder.built == 2


def cannot_remove(scene: Scene) -> None:
    """The cache as it is to a server that may not take an engine away, for root as well."""
    building = scene.folder / "cache" / ".building"
    building.rmdir()
    building.write_text("")


def damaged(scene: Scene) -> None:
    (engine,) = (scene.folder / "cache").rglob("[!.]*/*.engine")
    engine.chmod(0o644)
    engine.write_bytes(b"half of it")


def refused_by_tensorrt(scene: Scene) -> None:
    scene.builder.refuses_below = scene.folder / "cache"


def took_two_processes_along(scene: Scene) -> None:
    for _ in range(2):
        loading = scene.candidate()
        loading.open(ON_GPU, Stop())
        loading.blame()


@pytest.mark.parametrize("fate", [damaged, refused_by_tensorrt, took_two_processes_along])
def test_an_engine_that_is_no_good_and_cannot_be_removed_is_left_out_by_every_process(
    scene: Scene, fate: Callable[[Scene], None]
) -> None:
    first = scene.candidate()
    first.open(ON_GPU, Stop())
    first.keep()
    cannot_remove(scene)
    fate(scene)
    for process in range(2):
        scene.builder.opened.clear()
        candidate = scene.candidate()
        candidate.open(ON_GPU, Stop())
        assert (candidate.preparation.hits, candidate.preparation.misses) == (0, 1)
        assert len(scene.builder.opened) <= 2
        candidate.keep()
        assert scene.builder.built == 2 + process


def test_memory_that_does_not_suffice_for_an_engine_leaves_it_in_the_cache(scene: Scene) -> None:
    first = scene.candidate()
    first.open(ON_GPU, Stop())
    first.keep()
    scene.builder.fails_once = OutOfMemory("no room")
    failing = scene.candidate()
    with pytest.raises(OutOfMemory):
        failing.open(ON_GPU, Stop())
    failing.discard()
    again = scene.candidate()
    again.open(ON_GPU, Stop())
    assert again.preparation.hits == 1


def test_any_other_failure_of_a_build_is_passed_on(scene: Scene) -> None:
    scene.builder.error = ExecutionFailed("no kernel")
    candidate = scene.candidate()
    with pytest.raises(ExecutionFailed, match="no kernel"):
        candidate.open(ON_GPU, Stop())
    candidate.discard()
    assert not list((scene.folder / "cache" / ".building").iterdir())


def test_a_stop_before_the_build_interrupts_the_digest_and_one_after_it_closes_the_session(
    scene: Scene,
) -> None:
    stopped = Stop()
    stopped.set()
    with pytest.raises(InterruptedError):
        scene.candidate().open(ON_GPU, stopped)
    assert not scene.builder.opened
    stop = Stop()
    candidate = scene.candidate()
    scene.builder.on_built = stop.set
    with pytest.raises(InterruptedError):
        candidate.open(ON_GPU, stop)
    assert scene.builder.runtime.sessions[0].closed


def attempts(scene: Scene) -> list[str]:
    return sorted(each.name for each in (scene.folder / "cache").rglob("*.attempt-*"))


def test_a_build_that_cannot_be_remembered_is_made_and_the_log_says_so(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    scene.root = scene.folder / "config.pbtxt"
    scene.root.write_text("")
    candidate = scene.candidate()
    with caplog.at_level(logging.WARNING):
        candidate.open(ON_GPU, Stop())
    candidate.discard()
    assert "a build that ends this process will not be remembered" in caplog.text


def test_an_engine_of_the_cache_that_took_two_processes_along_is_built_anew(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    first = scene.candidate()
    first.open(ON_GPU, Stop())
    first.keep()
    for _ in range(2):
        loading = scene.candidate()
        loading.open(ON_GPU, Stop())
        assert len(attempts(scene)) > 0
        loading.blame()
    again = scene.candidate()
    with caplog.at_level(logging.WARNING):
        again.open(ON_GPU, Stop())
    assert "ended the processes that loaded it, and is built anew" in caplog.text
    assert (again.preparation.hits, again.preparation.misses) == (0, 1)
    again.keep()
    assert attempts(scene) == []
    last = scene.candidate()
    last.open(ON_GPU, Stop())
    last.keep()
    assert last.preparation.hits == 1
    assert attempts(scene) == []


def died(scene: Scene) -> None:
    """What a process leaves that its build took along."""
    candidate = scene.candidate()
    candidate.open(ON_GPU, Stop())
    candidate.blame()


def test_an_attempt_stands_until_the_engine_is_kept_or_given_up(scene: Scene) -> None:
    for end in (TensorRtCandidate.discard, TensorRtCandidate.keep):
        candidate = scene.candidate()
        candidate.open(ON_GPU, Stop())
        assert len(attempts(scene)) == 1
        end(candidate)
        assert attempts(scene) == []


def test_an_engine_that_took_two_processes_along_is_refused_with_what_to_do(scene: Scene) -> None:
    died(scene)
    again = scene.candidate()
    again.open(ON_GPU, Stop())
    assert again.preparation.crashes == 1
    again.blame()
    third = scene.candidate()
    with pytest.raises(CandidateRefused, match="2 builds of its engine ended with the process") as (
        refused
    ):
        third.open(ON_GPU, Stop())
    assert third.preparation.crashes == 2
    assert scene.builder.built == 2
    (name, _) = attempts(scene)
    assert f"/{name.rpartition('-')[0]}-* in the folder of --trt-cache-dir" in refused.value.message
    assert "the last one begun 2" in refused.value.message
    assert os.uname().nodename not in refused.value.message.split()
    other = scene.candidate(TensorRtRequest({"trt_builder_optimization_level": "1"}))
    other.open(ON_GPU, Stop())  # other options make another engine
    assert scene.builder.built == 3


def test_a_model_that_wants_no_cache_is_remembered_all_the_same(scene: Scene) -> None:
    request = TensorRtRequest({}, is_cached=False)
    for _ in range(2):
        candidate = scene.candidate(request)
        candidate.open(ON_GPU, Stop())
        candidate.blame()
    with pytest.raises(CandidateRefused, match="it is not tried again"):
        scene.candidate(request).open(ON_GPU, Stop())


def test_a_build_that_is_told_to_stop_counts_for_no_crash_though_it_goes_on(scene: Scene) -> None:
    died(scene)
    stop = Stop()
    during: list[list[str]] = []

    def told() -> None:
        during.append(attempts(scene))
        stop.set()
        wait_until(lambda: len(attempts(scene)) == 1, "a file that is taken away")
        during.append(attempts(scene))

    scene.builder.on_built = told
    candidate = scene.candidate()
    with pytest.raises(InterruptedError):
        candidate.open(ON_GPU, stop)
    candidate.discard()
    assert [len(each) for each in during] == [2, 1]
    assert len(attempts(scene)) == 1


def test_an_engine_that_another_process_builds_is_waited_for_and_taken(scene: Scene) -> None:
    other = scene.candidate()
    other.open(ON_GPU, Stop())
    (path,) = (scene.folder / "cache").rglob("*.attempt-1")
    path.write_text(path.read_text().replace('"pids": "', '"pids": "elsewhere '))
    candidate = scene.candidate()
    said: list[str] = []

    class Waited(Stop):
        def proceeds(self, seconds: float) -> bool:
            said.append(candidate.preparation.doing)
            other.keep()
            return True

    candidate.open(ON_GPU, Waited())
    assert said == ["waits for another process that builds it"]
    assert candidate.preparation.doing == ""
    assert (candidate.preparation.hits, candidate.preparation.misses) == (1, 0)
    assert scene.builder.built == 1
