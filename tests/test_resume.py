"""A training that is interrupted at any moment and resumed ends exactly as one that was not; no file is torn.

`resume_run` has the training, which draws random numbers for images, augmentation, anchors and RoIs, and whose
callbacks change the learning rate.
"""

from __future__ import annotations

import os
import resource
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from kit import Squares, numpy, run_eagerly, tiny_model
from resume_run import callbacks, everything, train

from mrcnn import weights
from mrcnn.data.generator import DataGenerator
from mrcnn.io import remove_orphans
from mrcnn.training.callback_state import CallbackState
from mrcnn.training.callbacks import KeptCheckpoints
from mrcnn.training.run_files import LossesCsv
from mrcnn.weights.train_state import STATE_FILE, TrainState, is_intact, read_state, write_state

EPOCHS = 3
HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="checked by hand on JAX: resume_run.py")


@pytest.fixture(scope="module", autouse=True)
def eagerly():
    with run_eagerly():
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training without interruption, its run folder, and copies of the folder as a kill would leave it."""
    folder, copies = tmp_path_factory.mktemp("whole"), tmp_path_factory.mktemp("copies")
    model, history = train(folder, EPOCHS, [Copy(folder, copies)])
    assert len(set(history.history["learning_rate"])) > 1  # the callbacks do something
    return model, Path(model.log_dir), copies


def assert_same(found: dict, expected: dict):
    assert found.keys() == expected.keys()
    for name in expected:
        np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


def events(run: Path) -> list:
    """(epoch, name, value) of the scalars that TensorBoard shows of a run's epochs."""
    import tensorflow as tf

    files = sorted(run.glob("*/events.out.tfevents.*"))
    found = [e for file in files for e in tf.compat.v1.train.summary_iterator(str(file))]
    scalars = [(e.step, value.tag, float(tf.make_ndarray(value.tensor))) for e in found for value in e.summary.value]
    return sorted(scalar for scalar in scalars if scalar[1].startswith("epoch"))


class Fail(keras.callbacks.Callback):
    """Raises an error at the given call of a method."""

    def __init__(self, method, call):
        super().__init__()
        self.left = call
        setattr(self, method, self.count)

    def count(self, *_, **__):
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("interrupted")


class Copy(keras.callbacks.Callback):
    """Copies a folder in the second epoch: before its second step is saved, and while the epoch ends."""

    def __init__(self, folder=None, copies=None):
        super().__init__()
        self.folder, self.copies = folder, copies

    def on_train_batch_begin(self, batch, logs=None):
        if self.copies and self.model.epoch == batch == 1:
            shutil.copytree(self.folder, self.copies / "step")

    def on_epoch_end(self, epoch, logs=None):
        if self.copies and epoch == 1:
            shutil.copytree(self.folder, self.copies / "epoch_end")


# ---- Exactly the same ------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("method", "call", "epoch", "step"),
    [
        pytest.param(None, 0, 2, 0, marks=pytest.mark.slow),
        ("on_train_batch_begin", 4, 1, 1),
        pytest.param("on_test_batch_begin", 1, 0, 2, marks=pytest.mark.slow),
        pytest.param("on_epoch_end", 2, 1, 2, marks=pytest.mark.slow),
    ],
)
def test_resumed_training_equals_uninterrupted_training(method, call, epoch, step, whole, tmp_path):
    """Weights, optimizer, schedule, callbacks, losses.csv and TensorBoard."""
    if method is None:
        train(tmp_path, 2)
    else:
        with pytest.raises(RuntimeError, match="interrupted"):
            train(tmp_path, EPOCHS, [Fail(method, call)])
    (folder,) = tmp_path.iterdir()
    state = read_state(folder / STATE_FILE)
    assert (state.epoch, state.step) == (epoch, step)
    found, history = train(tmp_path, EPOCHS, [Fail("unused", 0)] if method else [], seed=8)
    assert_ends_as(whole, tmp_path, found, list(range(epoch, EPOCHS)), history)


def assert_ends_as(whole, folder: Path, found, epochs: list[int], history):
    """The training in `folder` has the same bits and files as the one without interruption."""
    expected, run, _ = whole
    assert found.epoch == EPOCHS and history.epoch == epochs
    assert_same(everything(found), everything(expected))
    assert_same_files(folder, run)


def assert_same_files(folder: Path, run: Path):
    found = max(path for path in folder.iterdir() if path.is_dir())  # others were killed before they saved anything
    assert (found / "losses.csv").read_text() == (run / "losses.csv").read_text()
    assert events(found) == events(run)
    assert not list(found.glob(".*.part"))


def test_a_training_killed_while_an_epoch_ends_continues_exactly(whole, tmp_path):
    """The checkpoint is written, `last.train.h5`, losses.csv and TensorBoard are not."""
    folder = tmp_path / "logs"
    shutil.copytree(whole[2] / "epoch_end", folder)
    found, history = train(folder, EPOCHS, [Copy()], seed=8)
    assert_ends_as(whole, folder, found, [1, 2], history)


@pytest.mark.slow
def test_a_compiled_training_continues_exactly(tmp_path):
    import tensorflow as tf

    tf.config.run_functions_eagerly(False)
    try:
        expected, _ = train(tmp_path / "whole", EPOCHS, [Copy(tmp_path / "whole", tmp_path / "copies")])
        found, history = train(tmp_path / "copies" / "step", EPOCHS, [Copy()], seed=8)
    finally:
        tf.config.run_functions_eagerly(True)
    whole = expected, Path(expected.log_dir), None
    assert_ends_as(whole, tmp_path / "copies" / "step", found, [1, 2], history)


def test_model_epoch_is_right_after_an_exception(tmp_path):
    model = tiny_model("training", tmp_path, STEPS_PER_EPOCH=1)
    with pytest.raises(RuntimeError, match="interrupted"):
        model.train(Squares(), None, 0.01, 5, "fpn_p2", custom_callbacks=[Fail("on_train_batch_begin", 3)])
    assert model.epoch == 2
    model.train(Squares(), None, 0.01, 3, "fpn_p2")  # in the same process
    assert model.epoch == 3


@pytest.fixture
def default_handlers():
    """A shell starts its background jobs, such as these tests under nohup, with SIGINT ignored."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(("number", "error"), [(signal.SIGTERM, SystemExit), (signal.SIGINT, KeyboardInterrupt)])
@pytest.mark.parametrize("method", ["on_train_batch_end", pytest.param("on_epoch_end", marks=pytest.mark.slow)])
def test_signals_save_between_two_steps(number, error, method, tmp_path, default_handlers):
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    model = tiny_model("training", tmp_path, STEPS_PER_EPOCH=2)
    sender = keras.callbacks.LambdaCallback(**{method: lambda at, logs: os.kill(os.getpid(), number)})
    with pytest.raises(error):
        model.train(Squares(), None, 0.01, 5, "fpn_p2", custom_callbacks=[sender])
    state = read_state(Path(model.log_dir) / STATE_FILE)
    assert (state.epoch, state.step) == ((0, 1) if method == "on_train_batch_end" else (0, 2)) and model.epoch == 0
    assert model.find_last().endswith(STATE_FILE)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == handlers


@pytest.mark.parametrize("settings", [{}, {"IMAGE_RESIZE_MODE": "pad64", "IMAGE_MIN_DIM": 64, "IMAGES_PER_GPU": 1}])
def test_a_resumed_epoch_runs_its_remaining_batches(settings, tmp_path):
    generator = DataGenerator(Squares(5), tiny_model("training", tmp_path, **settings).config, steps=4, seed=3)
    generator.epoch = 2
    rest = generator.rest_of_epoch(3)
    assert len(rest) == 1 and len(generator) == 4
    for name, array in rest[0][0].items():
        np.testing.assert_array_equal(array, generator[3][0][name])


def test_a_new_learning_rate_is_kept_and_other_layers_reset_the_optimizer(tmp_path):
    """The state is used only with exactly the weights that it was saved with."""
    model = tiny_model("training", tmp_path, STEPS_PER_EPOCH=1)
    for epoch, (rate, layers, steps) in enumerate([(0.01, "fpn_p2", 1), (0.02, "fpn_p2", 2), (0.02, "fpn_p3", 1)], 1):
        model.train(Squares(5), None, rate, epoch, layers)
        assert int(numpy(model.optimizer.iterations)) == steps
        assert float(numpy(model.optimizer.learning_rate)) == pytest.approx(rate)
    model.get_layer("fpn_p2").bias.assign(np.ones(16))
    model.train(Squares(5), None, 0.02, 4, "fpn_p3")
    assert int(numpy(model.optimizer.iterations)) == 1


# ---- Callbacks and files ---------------------------------------------------------------------------------------------
def test_only_changed_callback_state_is_saved():
    class Counting(keras.callbacks.Callback):
        def __init__(self, patience):
            super().__init__()
            self.patience, self.best, self.seen, self.weights, self.report = patience, np.float32(np.inf), (), None, max

    first = Counting(3)
    before = CallbackState([first])
    first.best, first.seen, first.weights = np.float32(0.5), (1, {"a": [2.5]}), [np.eye(2), np.zeros(0, "int32")]
    states, arrays = before.read()
    second = Counting(7)
    assert CallbackState([second]).restore(states, arrays)
    assert second.patience == 7 and second.best == 0.5 and type(second.best) is np.float32
    assert second.seen == (1, {"a": [2.5]}) and second.report is max
    np.testing.assert_array_equal(second.weights[0], np.eye(2))
    assert second.weights[1].dtype == "int32" and second.weights[1].shape == (0,)
    assert not CallbackState([keras.callbacks.Callback()]).restore(states, arrays)
    assert CallbackState(callbacks()).read()[0] == [["ReduceLROnPlateau", {}], ["EarlyStopping", {}]]


def test_losses_csv_gets_columns_for_new_values(tmp_path):
    log = LossesCsv(tmp_path / "run" / "losses.csv")
    log.on_epoch_end(0, {"loss": 1.5, "a": 2})
    log.on_epoch_end(1, {"loss": 1.25, "a": 3})
    log.on_epoch_end(2, {"val_ap": 0.5, "a": 4})
    assert log.path.read_text().splitlines() == ["epoch,a,loss,val_ap", "0,2,1.5,NA", "1,3,1.25,NA", "2,4,NA,0.5"]


@pytest.mark.parametrize(
    ("keep", "metric", "values", "stay"),
    [
        ("all", "val_loss", [3, 1, 2], [1, 2, 3]),
        (2, "val_loss", [3, 1, 2, 4], [3, 4]),
        (1, "val_loss", [3, 1], [2]),
        ("best", "val_loss", [3, 1, 2], [2, 3]),
        ("best", "val_loss", [3, 1, 1], [2, 3]),
        ("best", "val_mask_ap", [0.1, 0.5, 0.5, 0.5], [2, 4]),  # EvaluateDataset(every=3) repeats its values
        ("best", "val_mask_ap", [0.1, 0.5, 0.2, 0.3], [2, 4]),
        ("best", "val_loss", [np.nan, 2, np.nan], [2, 3]),
    ],
)
def test_checkpoints_are_pruned_as_configured(keep, metric, values, stay, tmp_path):
    kept = KeptCheckpoints(str(tmp_path / "{epoch:04d}.h5"), keep, metric)
    for epoch, value in enumerate(values, 1):
        (tmp_path / f"{epoch:04d}.h5").touch()
        kept.add(epoch, {metric: value})
    assert sorted(int(path.stem) for path in tmp_path.iterdir()) == stay


def test_an_unwritten_checkpoint_deletes_no_other(tmp_path):
    kept = KeptCheckpoints(str(tmp_path / "{epoch:04d}.h5"), 1)
    (tmp_path / "0001.h5").touch()
    for epoch in (1, 2):
        kept.add(epoch, {})
    assert (tmp_path / "0001.h5").is_file()


def test_train_keeps_the_best_and_the_last_checkpoint(tmp_path):
    def epochs():
        return sorted(int(path.stem[-4:]) for path in Path(model.log_dir).glob("mask_rcnn_*.h5"))

    def count(epoch, logs):
        logs["val_mask_ap"] = [0.1, 0.5, 0.2][epoch]

    model = tiny_model("training", tmp_path, STEPS_PER_EPOCH=1)
    counting = keras.callbacks.LambdaCallback(on_epoch_end=count)
    best = {"keep_checkpoints": "best", "best_metric": "val_mask_ap"}
    model.train(Squares(), None, 0.01, 3, "fpn_p2", custom_callbacks=[counting], **best)
    assert epochs() == [2, 3]
    history = model.train(Squares(2), Squares(2), 0.01, 5, "fpn_p2", keep_checkpoints="best").history
    assert epochs() == [2, 3, *sorted({4 + int(np.argmin(history["val_loss"])), 5})]  # those of other metrics stay


def test_invalid_checkpoint_settings_are_refused(tmp_path):
    with pytest.raises(ValueError, match='compares "val_loss", but there is no validation set'):
        KeptCheckpoints("x", "best", validates=False)
    with pytest.raises(ValueError, match='keep_checkpoints is 0; expected "all", "best"'):
        KeptCheckpoints("x", 0)
    with pytest.raises(ValueError, match="val_mask_ap.*expected one of loss.*EvaluateDataset"):
        KeptCheckpoints("x", "best", "val_mask_ap").add(1, {"loss": 1})
    with pytest.raises(ValueError, match="save_every_steps is 0"):
        tiny_model("training", tmp_path).train(Squares(), None, 0, 1, "heads", save_every_steps=0)


@pytest.fixture
def dense():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="fc")])
    model.build()
    return model


def test_a_state_file_detects_every_corrupted_byte(dense, tmp_path):
    path = tmp_path / STATE_FILE
    arrays = {"optimizer/00000": np.arange(6.0).reshape(2, 3), "metrics/00000": np.float32(1.5)}
    write_state(path, dense, TrainState(4, 7, {"seed": 3, "inf": float("inf")}, arrays))
    state = read_state(path)
    assert (state.epoch, state.step, state.info) == (4, 7, {"seed": 3, "inf": float("inf")})
    assert_same(state.arrays, arrays)
    assert weights.read_weights(path)["fc"][0].shape == (3, 2)
    content = path.read_bytes()
    for at in (0, len(content) // 3, len(content) - 50, len(content) - 1):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert not is_intact(path) and read_state(path) is None
    for size in (0, 10, len(content) - 1):
        path.write_bytes(content[:size])
        assert not is_intact(path)
    assert not is_intact(tmp_path / "missing")


def test_find_last_skips_broken_files_with_a_warning(dense, tmp_path, caplog):
    run = tmp_path / "tiny20260101T0000"
    for epoch in (1, 2, 3):
        weights.save_matterport_h5(dense, run / f"mask_rcnn_tiny_{epoch:04d}.h5")
    newest = run / "mask_rcnn_tiny_0003.h5"
    newest.write_bytes(newest.read_bytes()[:-100])
    assert weights.find_last(tmp_path, "tiny") == str(run / "mask_rcnn_tiny_0002.h5")
    assert "0003.h5 is broken" in caplog.text
    expected = {(2, 0): False, (2, 5): True, (1, 0): True, (1, 4): True, (0, 5): False, (3, 1): False}
    for (epoch, step), is_last in expected.items():
        write_state(run / STATE_FILE, dense, TrainState(epoch, step))
        assert weights.find_last(tmp_path, "tiny").endswith(STATE_FILE) == is_last, (epoch, step)
        assert weights.parse_checkpoint(run / STATE_FILE, "tiny") == (str(run), epoch)
    (run / STATE_FILE).write_bytes(b"torn")
    assert weights.find_last(tmp_path, "tiny") == str(run / "mask_rcnn_tiny_0002.h5")
    assert f"{STATE_FILE} is broken" in caplog.text


def test_temporary_files_of_dead_processes_are_removed(tmp_path):
    dead = subprocess.Popen(["true"])
    dead.wait()
    ours = tmp_path / f".a.h5.{os.getpid()}.part"
    for path in (ours, tmp_path / f".a.h5.{dead.pid}.part", tmp_path / "a.part", tmp_path / ".mine.part"):
        path.touch()
    assert remove_orphans(tmp_path) == [f".a.h5.{dead.pid}.part"]
    assert len(list(tmp_path.iterdir())) == 3 and remove_orphans(tmp_path / "missing") == []


def test_a_full_disk_is_logged_and_training_continues(tmp_path, caplog):
    """A limit on the size of files makes writing fail as a full disk does."""
    model = tiny_model("training", tmp_path, STEPS_PER_EPOCH=1, WEIGHT_DECAY=0.0)
    Path(model.log_dir).mkdir()
    (Path(model.log_dir) / "losses.csv").mkdir()  # can't be written
    model.train(Squares(), None, 0.01, 1, "fpn_p2")
    assert [record.message for record in caplog.records if "losses.csv is not written" in record.message]
    before = {path.name: path.read_bytes() for path in Path(model.log_dir).glob("*.h5")}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    caplog.clear()
    resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, limits[1]))
    try:
        model.train(Squares(), None, 0.01, 2, "fpn_p2")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    failed = [record.message for record in caplog.records if "h5 is not written" in record.message]
    assert len(failed) == 2 and all("\n" not in line and "Training continues" in line for line in failed)
    assert {path.name: path.read_bytes() for path in Path(model.log_dir).glob("*.h5")} == before
    assert not list(Path(model.log_dir).glob(".*.part")) and model.epoch == 2
    for path in Path(model.log_dir).glob("*"):
        if path.is_file():
            path.unlink()
    model.train(Squares(), None, 0.01, 3, "fpn_p2")  # the files are gone, and written again
    assert (Path(model.log_dir) / "mask_rcnn_tiny_0003.h5").is_file()


def test_an_unwritable_run_folder_is_an_error_before_training(tmp_path):
    (tmp_path / "file").touch()
    model = tiny_model("training", tmp_path / "file")
    with pytest.raises(OSError, match=r"The folder of this run, .*file/tiny.* can't be written to: .*model_dir"):
        model.train(Squares(), None, 0.01, 1, "fpn_p2")


def test_a_deleted_or_blocked_run_folder_is_logged_and_training_continues(tmp_path, caplog):
    model = tiny_model("training", tmp_path, STEPS_PER_EPOCH=1)
    run = Path(model.log_dir)

    def disturb(epoch, logs):
        if epoch == 1:
            shutil.rmtree(run)
        if epoch == 2:
            assert (run / "mask_rcnn_tiny_0002.h5").is_file() and is_intact(run / STATE_FILE)
            shutil.rmtree(run)
            run.touch()  # no file can be written, as in a folder that is read-only (which root can write to)
        if epoch == 3:
            run.unlink()

    disturbing = keras.callbacks.LambdaCallback(on_epoch_begin=disturb)
    model.train(Squares(), None, 0.01, 4, "fpn_p2", custom_callbacks=[disturbing], keep_checkpoints=1)
    lines = [record.getMessage() for record in caplog.records if "not written" in record.getMessage()]
    assert len(lines) == 3 and all("\n" not in line and "Training continues" in line for line in lines)
    assert model.epoch == 4 and is_intact(run / STATE_FILE) and (run / "mask_rcnn_tiny_0004.h5").is_file()
    assert not list(run.glob(".*"))


def test_non_finite_weights_are_not_saved(tmp_path, caplog):
    model = tiny_model("training", tmp_path, STEPS_PER_EPOCH=1)
    model.train(Squares(), None, 0.01, 1, "fpn_p2")
    model.get_layer("fpn_p2").bias.assign(np.full(16, np.nan))
    model.train(Squares(), None, 0.01, 2, "fpn_p3")
    assert model.find_last().endswith("mask_rcnn_tiny_0001.h5")
    assert "0002.h5 is not written: the weights of fpn_p2 are NaN" in caplog.text
    assert read_state(Path(model.log_dir) / STATE_FILE).epoch == 1


# ---- Real processes --------------------------------------------------------------------------------------------------
def start(folder: Path, *options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(HERE / "resume_run.py"), str(folder), str(EPOCHS), *options],
        stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip


def kill_when(process: subprocess.Popen, moment) -> bool:
    """Kills the process at once when `moment()` is true; False if it ended by itself before."""
    while process.poll() is None:
        if moment():
            process.kill()
            process.wait()
            return True
        time.sleep(0.0005)
    assert process.returncode == 0
    return False


def assert_no_torso(folder: Path):
    for path in folder.glob("*/*.h5"):
        if path.name == STATE_FILE:
            assert is_intact(path)
        else:
            with h5py.File(path) as file:
                assert len(file.attrs["layer_names"])


def test_a_process_killed_while_saving_resumes_exactly(whole, tmp_path):
    states = set()

    def third_state_is_being_written():
        states.update(path.stat().st_ino for path in tmp_path.glob(f"*/.{STATE_FILE}.*.part"))
        return len(states) >= 3

    assert kill_when(start(tmp_path), third_state_is_being_written)
    assert_no_torso(tmp_path)
    found, history = train(tmp_path, EPOCHS, seed=8)
    assert_ends_as(whole, tmp_path, found, list(range(history.epoch[0], EPOCHS)), history)


class Fork:
    """A training in a process that `forks` starts, with the methods of `subprocess.Popen` that `kill_when` uses."""

    def __init__(self, forks: subprocess.Popen, folder: Path):
        self.forks, self.returncode = forks, None
        print(folder, file=forks.stdin, flush=True)
        self.pid = int(forks.stdout.readline())

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self.forks.stdout], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> None:
        self.returncode = int(self.forks.stdout.readline())


@pytest.fixture
def forks():
    command = [sys.executable, str(HERE / "resume_run.py"), "--forks", str(EPOCHS)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.stdin.close()


@pytest.mark.slow
def test_30_kills_at_random_moments_do_not_change_the_result(whole, tmp_path, forks):
    """Each training is killed until it ends; in every second attempt, inside the writing of a file."""
    expected, run, _ = whole
    rng, kills, training, moments = np.random.default_rng(0), 0, 0, []
    while kills < 30:
        folder, training = tmp_path / str(training), training + 1
        folder.mkdir()
        while kill_when(Fork(forks, folder), late_enough(folder, rng.uniform(0, 3), writing=kills % 2 == 1)):
            kills += 1
            unfinished = sorted(path.name.split(".part")[0].strip(".") for path in folder.glob("*/.*.part"))
            moments.append(unfinished[-1].rsplit(".", 1)[0] if unfinished else "between two writes")
            assert_no_torso(folder)
            print(f"kill {kills} of training {training}: {moments[-1]}", flush=True)
        assert_same(dict(np.load(folder / "end.npz")), everything(expected))
        assert_same_files(folder, run)
    print(training, "trainings;", dict(Counter(moments)))
    assert len(set(moments)) >= 2


def late_enough(folder: Path, seconds: float, writing: bool):
    """A function that is true some seconds after training began and, if `writing`, while a file is being written."""
    known, begun = set(folder.glob("*/train/*")), []

    def moment() -> bool:
        if not begun and set(folder.glob("*/train/*")) - known:
            begun.append(time.monotonic())
        late = bool(begun) and time.monotonic() - begun[0] > seconds
        return late and (not writing or bool(list(folder.glob("*/.*.part"))))

    return moment
